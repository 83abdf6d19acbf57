"""Progressive distillation of diffusion models (Salimans & Ho, ICLR 2022) as a production pipeline.

The names of the Python interface (`api`) are here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from progdistill.api.model import Model, Samples, SamplingOptions, checkpoints, load
    from progdistill.api.run import Options, Run, RunFailedError, compare, distill, plan, resume

__all__ = [
    "Model",
    "Options",
    "Run",
    "RunFailedError",
    "Samples",
    "SamplingOptions",
    "checkpoints",
    "compare",
    "distill",
    "load",
    "plan",
    "resume",
]

# Metaflow ships only the flow's own folder to remote workers; this makes it bring the whole package along.
METAFLOW_PACKAGE_POLICY = "include"


def __getattr__(name: str) -> Any:
    """Import the interface when it is first used: workers and tasks, which do not use it, start faster."""
    if name in __all__:
        from progdistill.api import model, run

        return getattr(model if hasattr(model, name) else run, name)
    raise AttributeError(f"module 'progdistill' has no attribute {name!r}")
