"""The verbs of the progdistill command line, one file a verb group."""
