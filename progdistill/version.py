"""Versions that results depend on or are labeled with."""

__version__ = "0.1.0"

NUMERICS_VERSION = 3
"""Raised on purpose, by one, when the same job would compute other numbers than before.

It is part of every job's and every checkpoint's identity: raising it makes finished work run again. A change
of messages, layout or speed leaves it alone, so that a fixed typo does not throw away a week of training.
"""
