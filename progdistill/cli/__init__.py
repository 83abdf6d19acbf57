"""The command `progdistill`: one file per verb."""
