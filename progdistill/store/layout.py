"""The layout of a store: the keys of objects, and each kind of object with its lifetime.

Keys within a snapshot are made in `training/snapshots.py`; the keys of a dataset in `data/manifest.py`.

Garbage collection and verification work from `KINDS` and from what documents say they refer to
(`documents.Record.references`). An object of a kind that is not declared here is never collected.
"""

from collections.abc import Callable
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

LAYOUT_KEY: Final = "store.json"
ALIASES: Final = "aliases/"
BLOBS: Final = "blobs/sha256/"
CHECKPOINTS: Final = "checkpoints/"
EVALUATIONS: Final = "evaluations/"
EVALUATOR_RECIPES: Final = "evaluators/recipes/"
EVALUATORS: Final = "evaluators/"
JOBS: Final = "jobs/"
LIVE: Final = "live/"
NEIGHBORS: Final = "evaluation_neighbors/"
PIPELINES: Final = "pipelines/"
PROBES: Final = "probe/"
PROGRESS: Final = "progress/"
REFERENCE_STATISTICS: Final = "reference_statistics/"
REPORTS: Final = "reports/"
RUNS: Final = "runs/"
SHARDS: Final = "evaluation_shards/"
SNAPSHOTS: Final = "snapshots/"


def alias_key(name: str) -> str:
    return f"{ALIASES}{name}.json"


def blob_key(sha256: str) -> str:
    """A file that is named by its digest (`digest.FileDigest`)."""
    return f"{BLOBS}{sha256[:2]}/{sha256}"


def checkpoint_key(checkpoint_id: str) -> str:
    """A checkpoint's manifest."""
    return f"{CHECKPOINTS}{checkpoint_id}/manifest.json"


def pipeline_key(pipeline_id: str) -> str:
    """The manifest of a pipeline: VAE, text encoders, tokenizers and scheduler of a latent model."""
    return f"{PIPELINES}{pipeline_id}/manifest.json"


def evaluations_prefix(checkpoint_id: str) -> str:
    return f"{EVALUATIONS}{checkpoint_id}/"


def evaluation_key(checkpoint_id: str, spec_id: str) -> str:
    return f"{evaluations_prefix(checkpoint_id)}{spec_id}.json"


def shards_prefix(spec_id: str) -> str:
    return f"{SHARDS}{spec_id}/"


def shard_key(spec_id: str, samples: range) -> str:
    """One finished shard: the statistics of some of a measurement's samples."""
    return f"{shards_prefix(spec_id)}{samples.start}-{samples.stop}.json"


def generated_key(spec_id: str, samples: range) -> str:
    """One finished shard of a model's images, to compare others with."""
    return f"{shards_prefix(spec_id)}images-{samples.start}-{samples.stop}.json"


def neighbors_key(sheet_sha256: str, name: str) -> str:
    """The training images nearest to the samples on a contact sheet; `name` says how they were searched."""
    return f"{NEIGHBORS}{sheet_sha256}/{name}.json"


def evaluator_key(evaluator_id: str) -> str:
    """An evaluator's manifest."""
    return f"{EVALUATORS}{evaluator_id}/manifest.json"


def recipe_key(recipe_id: str) -> str:
    """Which evaluator a recipe gave."""
    return f"{EVALUATOR_RECIPES}{recipe_id}.json"


def reference_key(evaluator_id: str, dataset_fingerprint: str, split: str) -> str:
    """An evaluator's statistics of the real images of a split."""
    return f"{EVALUATORS}{evaluator_id}/reference/{dataset_fingerprint}-{split}.json"


def reference_statistics_key(sha256: str) -> str:
    """Published statistics of real images (.npz), named by the file's SHA-256."""
    return f"{REFERENCE_STATISTICS}{sha256}.npz"


def job_result_key(job_id: str) -> str:
    """What a finished job gave."""
    return f"{JOBS}{job_id}/result.json"


def job_request_key(job_id: str) -> str:
    """The request of a job, for pods; submitting the job again replaces it."""
    return f"{JOBS}{job_id}/request.json"


def live_samples_key(job_id: str) -> str:
    """A training job's current samples (PNG); the next ones replace them."""
    return f"{LIVE}{job_id}/samples.png"


def snapshots_prefix(job_id: str) -> str:
    return f"{SNAPSHOTS}{job_id}/"


def run_prefix(flow: str, run_id: str) -> str:
    return f"{RUNS}{flow}/{run_id}/"


def run_checkpoint_key(flow: str, run_id: str, sampling_steps: int) -> str:
    """Which checkpoint a run has at a number of sampling steps."""
    return f"{run_prefix(flow, run_id)}{sampling_steps}.json"


def progress_prefix(flow: str, run_id: str) -> str:
    return f"{PROGRESS}{flow}/{run_id}/"


def progress_key(flow: str, run_id: str, job_id: str) -> str:
    """How far a job of a run is; newer progress replaces it."""
    return f"{progress_prefix(flow, run_id)}{job_id}.json"


def report_key(flow: str, run_id: str) -> str:
    """A run's report: one HTML page that needs no other file."""
    return f"{REPORTS}{flow}/{run_id}/report.html"


def probe_key(name: str) -> str:
    """An object written, and removed at once, to see whether the store can be written."""
    return f"{PROBES}{name}"


class Lifetime(Enum):
    """What keeps an object that is older than the grace period of garbage collection."""

    PERMANENT = "nothing collects it, and what it refers to stays"
    RUN = "its run, which its key names as <prefix><flow>/<run id>/, until that run is deleted"
    JOB = "its job, which its key names as <prefix><job id>/, until that is finished or abandoned"
    OWNER = "the object that its key names as <prefix><owner>/"
    RESULT = "the checkpoints and evaluators that it refers to, all of them"
    REFERENCE = "any reference from an object that stays"
    TEMPORARY = "nothing"


class Kind(NamedTuple):
    """A kind of object: its keys, its lifetime, and whether its .json objects are sealed documents."""

    pattern: str
    lifetime: Lifetime
    sealed: bool = True
    owner_key: Callable[[str], str] | None = None
    """For OWNER: from the second segment of a key to the owner's key."""


KINDS: Final = (
    Kind(f"{RUNS}*", Lifetime.RUN),
    Kind(f"{REPORTS}*", Lifetime.RUN, sealed=False),
    Kind(f"{PROGRESS}*", Lifetime.RUN, sealed=False),
    Kind(f"{SNAPSHOTS}*", Lifetime.JOB),
    Kind(f"{LIVE}*", Lifetime.JOB, sealed=False),
    Kind(job_request_key("*"), Lifetime.JOB),
    Kind(f"{PROBES}*", Lifetime.TEMPORARY, sealed=False),
    Kind(f"{SHARDS}*", Lifetime.TEMPORARY),
    Kind(f"{NEIGHBORS}*", Lifetime.OWNER, owner_key=blob_key),
    Kind(f"{EVALUATIONS}*", Lifetime.OWNER, owner_key=checkpoint_key),
    Kind(job_result_key("*"), Lifetime.RESULT),
    Kind(f"{ALIASES}*", Lifetime.PERMANENT),
    Kind(f"{CHECKPOINTS}*", Lifetime.REFERENCE),
    Kind(f"{PIPELINES}*", Lifetime.REFERENCE),
    Kind(f"{EVALUATORS}*", Lifetime.PERMANENT),
    Kind(f"{REFERENCE_STATISTICS}*", Lifetime.PERMANENT, sealed=False),
    Kind(LAYOUT_KEY, Lifetime.PERMANENT),
    Kind(f"{BLOBS}*", Lifetime.REFERENCE, sealed=False),
)
"""All kinds, in the order of removal: what refers goes before what it refers to."""


def kind_of(key: str) -> Kind | None:
    """The kind of the object under a key; None for an object that this release does not know."""
    return next((kind for kind in KINDS if fnmatchcase(key, kind.pattern)), None)
