"""Training jobs: from a spec to a published checkpoint."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.data.reading import read_unconditional
from progdistill.diffusion.names import ObjectiveName
from progdistill.diffusion.noise import seed_for
from progdistill.errors import LostInvariantError, PeerLostError, ProgdistillError
from progdistill.jobs.live import LiveTraining
from progdistill.jobs.spec import CheckpointOutput, DistillSpec, GuideSpec, JobRequest, TrainBaseSpec, TrainingSpec
from progdistill.models.adapters import share_base
from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, guidance_parameter, save_weights, student_of
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import (
    CheckpointDescription,
    CheckpointKind,
    TrainingFigures,
    base_of,
    fetch_weights,
    load_manifest,
    publish_checkpoint,
)
from progdistill.store.base import Store
from progdistill.store.layout import live_samples_key
from progdistill.store.tensors import load_tensors
from progdistill.training.config import StatesFrom
from progdistill.training.devices import device_name
from progdistill.training.distributed import Rank
from progdistill.training.execution import Execution, decide, place
from progdistill.training.jump_objective import Annealing, JumpObjective
from progdistill.training.loop import Trained, TrainingHooks, TrainingTask, train
from progdistill.training.objective import (
    BaseObjective,
    DistillationObjective,
    GuidanceObjective,
    Objective,
    Trajectory,
)
from progdistill.training.profile import ProfiledUpdates, Work, forward_flops, product_rate
from progdistill.training.provenance import peak_memory_bytes, provenance
from progdistill.training.self_teacher import SelfTeacher
from progdistill.training.snapshots import Snapshot, SnapshotWriter, delete_snapshots, latest_snapshot, snapshot_named
from progdistill.training.state import TrainingState

logger = logging.getLogger(__name__)


def run_training(
    spec: TrainingSpec, request: JobRequest, store: Store, rank: Rank, should_stop: Callable[[], bool]
) -> CheckpointOutput | None:
    """Train, from the newest snapshot if there is one; publish and return the checkpoint on rank 0."""
    trained, work = _train(spec, request, store, rank, should_stop)
    if work is None:
        return None
    checkpoint_id = _publish(spec, request, store, rank, trained, work)
    return CheckpointOutput(checkpoint_id=checkpoint_id, loss_curve=tuple(trained.loss_curve))


def delete_leftovers(store: Store, job_id: str) -> None:
    """Delete the snapshots and live samples of a job whose result is published."""
    try:
        delete_snapshots(store, job_id)
        store.delete(live_samples_key(job_id))
    except ProgdistillError as error:
        logger.warning("snapshots of a finished job remain for garbage collection: %s", error)


def _train(
    spec: TrainingSpec, request: JobRequest, store: Store, rank: Rank, should_stop: Callable[[], bool]
) -> tuple[Trained, Work | None]:
    """Train; what the training computes is for rank 0 to report."""
    teacher, model, execution = _placed(spec, request, store, rank)
    decay = spec.objective.self_teacher_decay if isinstance(spec, DistillSpec) else None
    self_teacher = None if decay is None else SelfTeacher(model, decay)
    objective = _objective(spec, request, rank, teacher, self_teacher)
    work = _work(spec, objective, model.config, execution, rank) if rank.rank == 0 else None
    writer = SnapshotWriter(
        store, spec.id, keep=request.snapshots.keep, rank=rank.rank, world_size=rank.world_size, attempt=rank.attempt
    )
    task = TrainingTask(
        label=spec.label,
        settings=spec.training,
        objective=objective,
        loader=TrainingLoader(
            request.dataset,
            batch_size=spec.training.batch_size,
            # An order of its own for each training: those shorter than an epoch would meet the same images.
            seed=seed_for(spec.seed, f"{spec.purpose}, data"),
            rank=rank.rank,
            world_size=rank.world_size,
            flip=spec.training.horizontal_flip,
            device=rank.device,
            conditions=[column.name for column in model.config.network.columns],
            samples=isinstance(spec, TrainBaseSpec) or spec.states_from is StatesFrom.DATA,
        ),
        seed=spec.seed,
        purpose=spec.purpose,
        rank=rank,
        execution=execution,
        hooks=TrainingHooks(
            snapshots=writer,
            snapshot_interval_updates=request.snapshots.interval_in(spec.training.updates),
            should_stop=should_stop,
            # Garbage collection keeps the teacher of a job that is under way.
            snapshot_facts={} if isinstance(spec, TrainBaseSpec) else {"teacher": spec.teacher},
            watch=None if work is None else _watch(spec, request, store, work),
        ),
        new_parameters=frozenset({guidance_parameter(model.config)}) if isinstance(spec, GuideSpec) else frozenset(),
        self_teacher=self_teacher,
        work=work,
    )
    start = _snapshot_to_resume(store, spec.id, rank)
    if start is not None and rank.rank == 0:
        logger.info("%s: going on from update %s of %s", spec.label, start.update, spec.training.updates)
    return train(task, model, start), work


def _work(spec: TrainingSpec, objective: Objective, config: DenoiserConfig, execution: Execution, rank: Rank) -> Work:
    """What an update computes: a way forward and two back, of an adapter one to its frozen base, and its target."""
    passes = 3 if config.lora is None else 2
    if isinstance(objective, DistillationObjective):
        passes += objective.passes_without_gradient
    images = spec.training.batch_size // spec.world_size
    return Work(images, passes * forward_flops(config), product_rate(rank.device, execution.precision))


def _watch(
    spec: TrainingSpec, request: JobRequest, store: Store, work: Work
) -> Callable[[TrainingState, float], None] | None:
    """What rank 0 reports of the training where that is wanted, and a profile where that is."""
    if request.live is None:
        return None
    live = LiveTraining(spec, request.live, store, work)
    if request.live.profile is None:
        return live
    profiled = ProfiledUpdates(Path(request.live.profile) / f"{spec.kind}-{spec.id[:12]}", work)

    def watch(state: TrainingState, loss: float) -> None:
        live(state, loss)
        profiled(state, loss)

    return watch


def _snapshot_to_resume(store: Store, job_id: str, rank: Rank) -> Snapshot | None:
    """The snapshot to resume from: rank 0 chooses the newest, so that all agree even if one is written meanwhile."""
    found = latest_snapshot(store, job_id) if rank.rank == 0 else None
    name = rank.broadcast("" if found is None else found.name)
    if rank.rank == 0 or not name:
        return found
    try:
        return snapshot_named(store, job_id, name)
    except LostInvariantError as error:  # all ranks start again, from a newer one
        raise PeerLostError(f"the snapshot that rank 0 chose cannot be read: {error}") from error


def _placed(
    spec: TrainingSpec, request: JobRequest, store: Store, rank: Rank
) -> tuple[Denoiser | None, Denoiser, Execution]:
    """The teacher, if there is one, and the network as it begins, on their device, and how both are to run there."""
    if isinstance(spec, TrainBaseSpec):
        teacher, model = None, build_denoiser(spec.model, spec.seed)
    else:
        teacher, model = _teacher_and_student(spec, store)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    execution = decide(request.compute, spec.precision, rank.device, rank.world_size, parameters)
    if teacher is not None:
        place(teacher, execution, rank.device, shared=teacher.network is model.network)
    return teacher, place(model, execution, rank.device), execution


def _objective(
    spec: TrainingSpec, request: JobRequest, rank: Rank, teacher: Denoiser | None, self_teacher: SelfTeacher | None
) -> Objective:
    """What to train for."""
    weight = spec.training.loss_weight
    if isinstance(spec, TrainBaseSpec):
        without = _unconditional(request.dataset, spec.model, rank.device) if spec.label_dropout else None
        return BaseObjective(weight, spec.label_dropout, without)
    if teacher is None:
        raise ValueError("a student needs a teacher")
    common = (teacher, spec.student_steps, weight, spec.guidance_scale, spec.grid)
    trajectory = _trajectory(spec)
    if isinstance(spec, GuideSpec):
        without = _unconditional(request.dataset, teacher.config, rank.device)
        return GuidanceObjective(*common, 1, without, trajectory)
    chosen, steps = spec.objective, spec.teacher_steps
    if chosen.name is ObjectiveName.PROGRESSIVE:
        return DistillationObjective(*common, steps, trajectory=trajectory, loss=chosen.loss, solver=chosen.solver)
    annealing = None if chosen.lowest_factor is None else Annealing(chosen.lowest_factor, spec.training.updates)
    eta = chosen.addim_eta or 0.0
    return JumpObjective(
        *common, steps, self_teacher, annealing, trajectory, loss=chosen.loss, solver=chosen.solver, addim_eta=eta
    )


def _trajectory(spec: DistillSpec | GuideSpec) -> Trajectory | None:
    if spec.states_from is StatesFrom.DATA or spec.trajectory_steps is None:
        return None
    return Trajectory(of_student=spec.states_from is StatesFrom.STUDENT, most_steps=spec.trajectory_steps)


def _teacher_and_student(spec: DistillSpec | GuideSpec, store: Store) -> tuple[Denoiser, Denoiser]:
    """The teacher, and the student as it begins: as a copy (θ ← η)."""
    manifest = load_manifest(store, spec.teacher)
    config = DenoiserConfig.of(manifest.identity)
    student = _student_config(config, spec)
    frozen = torch.bfloat16 if spec.frozen_precision == "bfloat16" else torch.float32
    if student.lora is None:
        teacher = load_denoiser(store, manifest)
        model = student_of(teacher, student)
        nn.Module.to(teacher.network, frozen)  # diffusers' own `to` warns of modules that it would not cast
        return teacher, model
    base = manifest if config.lora is None else base_of(store, manifest)
    weights = None if config.lora is None else load_tensors(fetch_weights(store, manifest))
    shared = load_denoiser(store, base)
    nn.Module.to(shared.network, frozen)
    return share_base(shared, config, student, weights, spec.seed)


def _unconditional(info: DatasetInfo, config: DenoiserConfig, device: torch.device) -> Conditioning | None:
    """The dataset's columns of the empty or a negative prompt, one row; None for models with classes alone."""
    names = [column.name for column in config.network.columns]
    if names in ([], ["label"]):
        return None
    stored = read_unconditional(info)
    return None if stored is None else {name: torch.from_numpy(stored[name]).to(device) for name in names}


def _student_config(teacher: DenoiserConfig, spec: DistillSpec | GuideSpec) -> DenoiserConfig:
    """The teacher's, without dropout (Appendix E), with the student's own prediction type, grid, inputs and adapter."""
    changes: dict[str, object] = {"prediction": spec.prediction, "grid": spec.grid, "lora": None}
    if spec.lora is not None and spec.lora.rank is not None:
        rank, alpha = spec.lora.rank, spec.lora.alpha or spec.lora.rank
        base = spec.teacher if teacher.lora is None else teacher.lora.base
        changes["lora"] = LoraConfig(base=base, rank=rank, alpha=alpha, targets=spec.lora.targets)
    takes_guidance = spec.guidance_scale is not None
    if isinstance(spec, GuideSpec) and (spec.lora is not None or not teacher.network.can_take_guidance):
        takes_guidance, changes["folded_guidance_scale"] = False, spec.guidance_scale.lowest
    changes["network"] = teacher.network.for_student(guidance_input=takes_guidance)
    return teacher.model_copy(update=changes)


def _publish(spec: TrainingSpec, request: JobRequest, store: Store, rank: Rank, trained: Trained, work: Work) -> str:
    images = spec.training.updates * spec.training.batch_size
    figures = TrainingFigures(
        updates=spec.training.updates,
        images=images,
        seconds=trained.seconds,
        images_per_second=images / max(trained.seconds, 1e-9),
        model_flops_utilization=work.utilization(spec.training.updates / max(trained.seconds, 1e-9)),
        final_loss=trained.loss_curve[-1][1] if trained.loss_curve else None,
        job=spec.kind,
        world_size=rank.world_size,
        peak_memory_bytes=peak_memory_bytes(on_gpu=rank.device.type == "cuda"),
    )
    if isinstance(spec, TrainBaseSpec):
        kind, steps, parent, config = CheckpointKind.BASE, None, None, spec.model
    else:
        teacher = load_manifest(store, spec.teacher).identity
        kind, steps, parent = CheckpointKind.STUDENT, spec.student_steps, spec.teacher
        config = _student_config(DenoiserConfig.of(teacher), spec)
    description = CheckpointDescription(
        kind=kind,
        sampling_steps=steps,
        prediction=str(config.prediction),
        loss_weight=str(spec.training.loss_weight),
        architecture=config.model_dump(mode="json"),
        dataset_fingerprint=spec.dataset_fingerprint,
        parent=parent,
        training=spec.recorded_training(),
        seed=spec.seed,
        numerics_version=spec.numerics_version,
    )
    # In the store's own scratch space, so that publishing can move the file instead of copying it.
    with tempfile.TemporaryDirectory(dir=store.scratch()) as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(trained.weights, path)
        manifest = publish_checkpoint(
            store,
            path,
            description,
            provenance(
                device=device_name(rank.device),
                created_by=request.created_by,
                configuration=request.configuration,
                dataset_name=request.dataset.name,
                figures=figures,
            ),
            consume=True,
        )
    return manifest.id
