"""The datasets and stores of the job tests."""

from tests.jobs.conftest import data_root, digits, store

__all__ = ["data_root", "digits", "store"]
