"""Datasets and stores, as the tests of jobs have them."""

from tests.jobs.conftest import data_root, digits, store

__all__ = ["data_root", "digits", "store"]
