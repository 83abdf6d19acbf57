"""The dataset and the store of the evaluation tests."""

from tests.evaluation.conftest import digits, evaluated_store

__all__ = ["digits", "evaluated_store"]
