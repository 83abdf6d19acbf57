"""Sampling at scale, and how far the samples are from the real images."""
