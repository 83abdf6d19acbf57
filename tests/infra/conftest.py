"""Setup before the tests here import the package."""

from typing import runtime_checkable

from progdistill.store.base import Store

# Annotations of progdistill.evaluation are checked while tests run, with isinstance.
runtime_checkable(Store)
