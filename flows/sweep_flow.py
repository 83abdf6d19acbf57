"""A sweep as a Metaflow flow, which progdistill/sweep_flow.py defines.

python flows/sweep_flow.py run --over distill.learning_rate=5e-4,1e-3 --seeds 4
"""

from progdistill.signals import handle_early_signals

if __name__ == "__main__":
    handle_early_signals()  # while the rest is imported

from progdistill import sweep_flow
from progdistill.cli.sweep import main


class SweepFlow(sweep_flow.SweepFlow):
    """Run a grid of settings with several seeds, and compare the students."""


if __name__ == "__main__":
    main(SweepFlow)
