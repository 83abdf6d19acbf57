"""The command `progdistill`, by groups of verbs."""
