"""Feature extractors: from images to the vectors in which distances are measured."""
