"""One module for each published form of a dataset."""
