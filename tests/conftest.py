"""Shape annotations are checked while tests run: a wrong shape is a failed test, not a comment."""

from typing import runtime_checkable

from jaxtyping import install_import_hook

from progdistill.artifacts.store import Store

# Annotations of progdistill.evaluation are checked with isinstance.
runtime_checkable(Store)
install_import_hook(
    ["progdistill.diffusion", "progdistill.models", "progdistill.evaluation"], "beartype.beartype"
)
