"""Every test starts from a clean environment, and jaxtyping checks the shapes of tensors."""

import os
from typing import runtime_checkable

from jaxtyping import install_import_hook

from progdistill.store.base import Store
from tests import bare_machine

bare_machine.clear(os.environ)

# Annotations are checked with isinstance.
runtime_checkable(Store)
install_import_hook(
    [f"progdistill.{room}" for room in ("diffusion", "models", "features", "evaluation")], "beartype.beartype"
)
