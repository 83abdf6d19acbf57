"""Stores of both kinds for the conformance suite."""

from tests.store.stores import local_store, s3_endpoint, s3_uri, store

__all__ = ["local_store", "s3_endpoint", "s3_uri", "store"]
