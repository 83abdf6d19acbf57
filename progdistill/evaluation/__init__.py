"""Sampling at scale, feature extractors, and the distances between distributions."""
