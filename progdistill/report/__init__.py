"""Figures, the HTML report and its JSON, from published records alone."""
