"""Several ranks draw the samples of one evaluation; one of them adds up."""

from collections.abc import Callable, Sequence

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.asked import Asked, ddim_asked, guided_as, sampled_ancestrally
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.examiner import Examiner
from progdistill.evaluation.gamma_tuning import best_gamma, gamma_grid, settings_of_trials

Meet = Callable[[], None]


class Deal:
    """Hands out shards in turn, going on where it stopped: so a few shards of many questions are even too."""

    def __init__(self, rank: int, ranks: int) -> None:
        self._rank, self._ranks, self._dealt = rank, ranks, 0

    def mine(self, shards: Sequence[range]) -> list[range]:
        """This rank's part of some shards."""
        first = (self._rank - self._dealt) % self._ranks
        self._dealt += len(shards)
        return list(shards[first :: self._ranks])


def draw_together(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    num_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    rank: int,
    ranks: int,
    meet: Meet,
    device: str = "cpu",
) -> None:
    """Draw this rank's share of what `evaluate_checkpoint` needs; all ranks call it with equal arguments.

    `meet` returns when every rank has called it. Shards do not depend on the number of ranks, so neither do
    the figures of whoever adds up afterwards. A finished shard is kept in the store: an attempt that was cut
    off goes on behind it.
    """
    if num_steps > settings.max_sampling_steps:
        return
    settings = guided_as(manifest, settings)
    if rank == 0:
        Examiner(store, settings, info, device).load()
    meet()
    deal, examiner = Deal(rank, ranks), Examiner(store, settings, info, device)

    def draw(by: Examiner, asked: Asked) -> None:
        by.draw(asked.checkpoint, asked.sampler, num_steps, asked.gamma, deal.mine)

    # A base model is its own baseline: one question.
    for asked in {a.checkpoint.id: a for a in ddim_asked(manifest, baseline)}.values():
        draw(examiner, asked)
    ancestral = sampled_ancestrally(manifest, baseline, settings)
    trials = settings_of_trials(settings, num_steps)
    if trials is not None:
        tuner = Examiner(store, trials, info, device)
        for field, checkpoint in ancestral:
            for gamma in gamma_grid(settings.tuned_gammas):
                draw(tuner, Asked(field, checkpoint, SamplerName.ANCESTRAL, gamma))
        meet()
        if rank == 0:
            for _, checkpoint in ancestral:
                best_gamma(store, settings, info, checkpoint, num_steps, device=device)
        meet()
    for field, checkpoint in ancestral:
        gamma = best_gamma(store, settings, info, checkpoint, num_steps, device=device)
        draw(examiner, Asked(field, checkpoint, SamplerName.ANCESTRAL, gamma))
    meet()
