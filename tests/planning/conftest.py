"""Annotations of progdistill.evaluation are checked while tests run, with isinstance."""

from typing import runtime_checkable

from progdistill.artifacts.store import Store

runtime_checkable(Store)
