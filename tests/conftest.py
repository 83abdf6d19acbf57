"""Shape annotations are checked while tests run: a wrong shape is a failed test, not a comment."""

from jaxtyping import install_import_hook

install_import_hook(
    ["progdistill.diffusion", "progdistill.models", "progdistill.evaluation"], "beartype.beartype"
)
