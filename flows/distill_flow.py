"""Progressive distillation as a Metaflow flow, which progdistill/flow.py defines.

python flows/distill_flow.py run --dataset digits
"""

from progdistill.signals import handle_early_signals

if __name__ == "__main__":
    handle_early_signals()  # while the rest is imported

from progdistill import flow
from progdistill.cli.run import main


class DistillFlow(flow.DistillFlow):
    """Train or import a diffusion model, halve its sampling steps stage by stage, evaluate and report."""


if __name__ == "__main__":
    main(DistillFlow)
