"""Datasets: importers, the stored form, and the loader that feeds training."""
