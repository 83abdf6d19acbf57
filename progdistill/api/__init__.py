"""The Python interface: models and runs. Its names are in `progdistill`, too."""
