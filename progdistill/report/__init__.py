"""The report of a run: figures, HTML and JSON, from records alone."""
