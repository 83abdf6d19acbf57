"""What reads foreign input: for each target, real files to start from, and a call of the product that reads them."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from progdistill.cli.main import main
from progdistill.errors import ProgdistillError, UsageError
from progdistill.models_base import content_id
from progdistill.store.digest import digest_of_file
from progdistill.store.documents import REFERENCES, SEAL
from tests.data import published
from tests.fuzz.mutators import mutate


class Target(NamedTuple):
    """One kind of foreign input."""

    make: Callable[[Path], None]
    """Writes unharmed input into an empty folder: equal bytes every time."""
    read: Callable[[], None]
    """Reads the input in the working folder. Anything but success and a ProgdistillError is a crash."""
    files: str = "**/*"
    """Which of the files are mutated."""
    mend: Callable[[Path, Path, Random], None] = lambda folder, file, random: None
    """Mends seals and digests after a file was mutated, so that what lies behind them is reached."""
    alone: bool = False
    """Whether what lies in the folder beside a mutated file or folder is another input, which is removed."""


def command(*words: str) -> None:
    """Run a command of `progdistill`, in whatever way it ends; what it prints is not looked at."""
    main(list(words))


def mutated(target: Target, folder: Path, random: Random) -> None:
    """Mutate one or two files of a fresh copy of a target's input."""
    files = sorted(path for path in folder.glob(target.files) if path.is_file())
    for file in random.sample(files, min(len(files), random.choice((1, 1, 1, 2)))):
        file.write_bytes(mutate(file.read_bytes(), random))
        if random.random() < 0.8:
            with suppress(Exception):  # what is no document any more has no seal
                target.mend(folder, file, random)
        if target.alone:
            for other in folder.iterdir():
                if not file.is_relative_to(other):
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
            return


# Options, settings and their files


def _make_arguments(folder: Path) -> None:
    words = ["--ladder", "4:1", "--seed", "3", "--base-updates", "10", "--set", "distill.learning_rate=5e-4"]
    words += ["--set", 'distill={"batch_size":32}', "--set", "model.network.base_channels=8", "--preset", "digits"]
    words += ["--set", "evaluation.samples=20", "--guidance-scale", "1:4", "--target-steps", "2", "--dataset", "digits"]
    words += ["--set", 'cluster.train={"hosts":2}', "--set", "compute.world_size=1", "--set", "snapshots.keep=2"]
    (folder / "words.json").write_text(json.dumps(words))


def _read_arguments() -> None:
    try:
        words = json.loads(Path("words.json").read_bytes())
    except (ValueError, RecursionError):
        return  # a file of ours, not of the product
    words = words if isinstance(words, list) else [words]
    # --measure trains, and --store would write elsewhere; every option may be shortened.
    words = [str(word) for word in words if not re.match(r"--(m|s$|st)", str(word))]
    command("plan", *(word.replace("\0", " ") for word in words))


def _make_toml(folder: Path) -> None:
    (folder / "progdistill.toml").write_text(
        'ladder = "8:1"\nseed = 3\npreset = "digits"\nbase-updates = 10\nupdates-per-stage = 5\n\n[set]\n'
        '"distill.learning_rate" = 5e-4\n"evaluation.samples" = 20\n"snapshots.keep" = 2\n'
        '"distill.updates_at_steps" = { 1 = 9 }\n\n[set.compute]\ndevice = "cpu"\n\n[prices]\nhere = 0.3\n'
    )


def _make_deployment(folder: Path) -> None:
    (folder / "deployment.toml").write_text(
        'cron = "0 3 * * 0"\ntimezone = "Europe/Vienna"\nsecrets = ["s3"]\nimage = "registry/image:1"\n'
        '[options]\nladder = "64:1"\nstore = "s3://bucket/store"\n[options.set]\n"distill.learning_rate" = 1e-3\n'
        "[pod]\ncpu = 2\nmemory_mib = 1000\n[steps.distill]\ntimeout_minutes = 100\n[environment]\nA = 'b'\n"
        '[labels]\nteam = "x"\n[security_context]\nrunAsUser = 1000\n[[tolerations]]\nkey = "gpu"\n'
    )
    (folder / "deployment.json").write_text('{"options": {"ladder": "8:1", "set": {"seed": 3}}, "pod": {"gpus": 1}}')


def _read_deployment() -> None:
    from metaflow.exception import MetaflowException

    from progdistill.argo import deployed_options
    from progdistill.config.deployment import parse_deployment

    for name in ("deployment.toml", "deployment.json"):
        with contextlib.suppress(ProgdistillError, MetaflowException):
            deployed_options(parse_deployment(Path(name).read_text(errors="replace")))


# Stores


def _make_store(folder: Path) -> None:
    from progdistill.config.presets import PRESETS
    from progdistill.registry.aliases import move_alias
    from progdistill.registry.checkpoint import CheckpointKind, publish_checkpoint
    from progdistill.registry.runs import record_run_checkpoint
    from progdistill.store.open import open_store
    from tests.registry import samples

    store = open_store(str(folder / "store"))
    architecture = PRESETS["digits"].model.model_dump(mode="json")
    identity = samples.description(architecture=architecture)
    base = publish_checkpoint(store, samples.weights_file(folder), identity, samples.provenance())
    changes = {"kind": CheckpointKind.STUDENT, "sampling_steps": 4, "parent": base.id}
    identity = samples.description(architecture=architecture, **changes)
    student = publish_checkpoint(store, samples.weights_file(folder, 1), identity, samples.provenance(5))
    move_alias(store, "best", student.id, "me@here")
    record_run_checkpoint(store, "DistillFlow", "1", 4, student.id)
    samples.measure(store, student, 5.0, 4)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    _forget_times(folder / "store" / "aliases" / "best.json")


def _forget_times(path: Path) -> None:
    """Make a document the same at every time."""
    text = re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z?", "2026-01-01T00:00:00Z", path.read_text())
    path.write_text(text)
    _reseal(path)


def _reseal(path: Path) -> None:
    facts = json.loads(path.read_bytes())
    facts.pop(SEAL, None)
    facts[SEAL] = content_id(facts)
    path.write_text(json.dumps(facts))


def _mend_document(folder: Path, file: Path, random: Random) -> None:
    """Seal a mutated document, whose id and place may become those of its content."""
    facts = json.loads(file.read_bytes())
    if "identity" in facts and random.random() < 0.7:
        facts["id"] = content_id(facts["identity"])
        file.write_text(json.dumps(facts))
        moved = file.parent.with_name(facts["id"])
        if len(file.parent.name) == 64 and not moved.exists():
            file = file.parent.rename(moved) / file.name
    _reseal(file)


def _read_store() -> None:
    ids = sorted(path.name for path in Path("store", "checkpoints").glob("*"))
    for line in (
        ("checkpoints", "list"),
        ("checkpoints", "list", "--json", "--max-distance", "9"),
        ("checkpoints", "verify"),
        ("checkpoints", "gc"),
        ("checkpoints", "alias", "best"),
        ("checkpoints", "show", ids[0][:12]),
        ("checkpoints", "show", "DistillFlow/1/4"),
        ("lineage",),
        ("lineage", "best", "--json"),
        ("lineage", "--html", "page.html"),
        ("lineage", "--openlineage", "DistillFlow/1"),
        ("plan", "--from", "best", "--dataset", "digits"),
        ("export", ids[-1], "--format", "safetensors", "--out", "exported"),
        ("checkpoints", "alias", "other", ids[-1]),
        ("checkpoints", "gc", "--delete", "--grace-days", "1"),
    ):
        command(*line, "--store", "store") if line[0] != "plan" else command(*line)


def _make_snapshots(folder: Path) -> None:
    import torch

    from progdistill.store.open import open_store
    from progdistill.training.snapshots import SnapshotWriter

    writer = SnapshotWriter(open_store(str(folder / "store")), "job-1")
    for update in (10, 20):
        writer.save(update, {"weight": torch.arange(20.0), "step": torch.tensor(1.0)}, {"images": update})
        writer.wait()


def _mend_snapshot(folder: Path, file: Path, random: Random) -> None:
    if file.suffix == ".safetensors":
        document = file.with_suffix(".json")
        facts = json.loads(document.read_bytes())
        digest = digest_of_file(file)
        facts["tensors"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
        document.write_text(json.dumps(facts))
        file = document
    _mend_document(folder, file, random)


def _read_snapshots() -> None:
    from progdistill.store.open import open_store
    from progdistill.training.snapshots import latest_snapshot

    snapshot = latest_snapshot(open_store("store"), "job-1")
    if snapshot is not None:
        snapshot.read("weight", 0, 20)
        snapshot.read("step", 0, 1)


# Models


def _make_exported(folder: Path) -> None:
    from progdistill.config.presets import PRESETS
    from progdistill.models.denoiser import build_denoiser, save_weights, weights_of
    from progdistill.registry.checkpoint import fetch_weights, publish_checkpoint
    from progdistill.store.documents import encode
    from progdistill.store.open import open_store
    from tests.registry.samples import description, provenance

    model = PRESETS["digits"].model
    network = model.network.model_copy(update={"base_channels": 4})
    model = model.model_copy(update={"network": network})
    save_weights(weights_of(build_denoiser(model, 0)), folder / "w")
    store = open_store(str(folder / "made"))
    identity = description(architecture=model.model_dump(mode="json"))
    manifest = publish_checkpoint(store, folder / "w", identity, provenance())
    (folder / "model").mkdir()
    (folder / "model" / "manifest.json").write_bytes(encode(manifest))
    shutil.copyfile(fetch_weights(store, manifest), folder / "model" / "weights.safetensors")
    shutil.rmtree(folder / "made")
    (folder / "w").unlink()


def _mend_exported(folder: Path, file: Path, random: Random) -> None:
    manifest = folder / "model" / "manifest.json"
    if file.suffix == ".safetensors":
        facts = json.loads(manifest.read_bytes())
        digest = digest_of_file(file)
        facts["identity"]["weights"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
        facts["references"] = [f"blobs/sha256/{digest.sha256[:2]}/{digest.sha256}"]
        facts["id"] = content_id(facts["identity"])
        manifest.write_text(json.dumps(facts))
    facts = json.loads(manifest.read_bytes())
    facts["id"] = content_id(facts["identity"])
    facts.pop(REFERENCES, None)
    manifest.write_text(json.dumps(facts))
    _reseal(manifest)


def _read_exported() -> None:
    command("import", "model", "--name", "found", "--store", "store")
    command("sample", "found", "--count", "2", "--sampling-steps", "1", "--out", "x.png", "--store", "store")
    command("plan", "--from", "found", "--dataset", "digits", "--ladder", "4:2")


def _make_diffusers(folder: Path) -> None:
    import diffusers
    import torch

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder / "pipeline")


def _make_pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    _make_diffusers(folder)
    weights = folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    few = {name: tensor for name, tensor in load_file(weights).items() if "conv_in" in name}
    torch.save({"state_dict": few, "epoch": 3}, weights.with_suffix(".bin"))
    weights.unlink()


def _read_diffusers() -> None:
    command("import", "pipeline", "--name", "found", "--allow-pickle", "--store", "store")
    command("sample", "found", "--count", "2", "--sampling-steps", "1", "--out", "x.png", "--store", "store")
    command("import", "pipeline/unet", "--name", "again", "--image-size", "8", "--store", "store")


def _make_pipelines(folder: Path) -> None:
    from tests.models import pipelines

    for make in (pipelines.stable_diffusion, pipelines.dit, pipelines.sd3, pipelines.flux, pipelines.sana):
        make(folder / make.__name__)


def _read_pipelines() -> None:
    for place in sorted(path.name for path in Path().iterdir() if (path / "model_index.json").is_file()):
        command("import", place, "--name", place.replace("_", "-"), "--store", "store")


# Datasets


def _make_dataset(folder: Path) -> None:
    from progdistill.data.importers.arrays import ArraysSource
    from progdistill.data.prepare import prepare

    images = np.arange(20 * 4 * 4, dtype=np.uint8).reshape(20, 4, 4)
    np.savez(folder / "x.npz", images=images, labels=np.arange(20) % 2)
    os.utime(folder / "x.npz", ns=(0, 0))
    source = ArraysSource(folder / "x.npz", horizontal_flip_safe=True)
    prepare(source, "mine", str(folder / "data" / "mine"), staging_root=folder)
    (folder / "x.npz").unlink()


def _mend_dataset(folder: Path, file: Path, random: Random) -> None:
    manifest = folder / "data" / "mine" / "manifest.json"
    if file != manifest:
        facts = json.loads(manifest.read_bytes())
        digest = digest_of_file(file)
        for entry in (entry for entries in facts["splits"].values() for entry in entries):
            if entry["file"] == file.name:
                entry["digest"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
        manifest.write_text(json.dumps(facts))
    _mend_document(folder, manifest, random)


def _read_dataset() -> None:
    from progdistill.data.dataset import find_dataset
    from progdistill.data.loader import TrainingLoader

    command("data", "list")
    command("data", "info", "mine", "--verify")
    command("data", "info", "mine", "--grid", "grid.png", "--json")
    command("plan", "--dataset", "mine", "--preset", "digits", "--set", "evaluation.evaluator=efficientnet_lite0")
    info = find_dataset("mine", Path("data"))
    if info.splits.get("train", 0) > 10**6:
        return  # a loader orders all images in memory
    loader = TrainingLoader(info, batch_size=4, seed=3, rank=0, world_size=1, flip=True)
    try:
        loader.batch(0)
    finally:
        loader.close()


def _images(count: int = 3, size: int = 6) -> list[bytes]:
    images, _ = published.random_images(count, size)
    return [published.encoded(image) for image in images]


def _make_images(folder: Path) -> None:
    from PIL import Image

    pixels, _ = published.random_images(1, 12)
    picture = Image.fromarray(pixels[0])
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "TGA", "AVIF"):
        path = folder / "set" / f"class{len(kind)}" / f"x.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, kind)
    picture.convert("I;16").save(folder / "set" / "class3" / "deep.png")
    picture.convert("P").save(folder / "set" / "class3" / "palette.png", transparency=3)


def _make_folder(folder: Path) -> None:
    for number, image in enumerate(_images()):
        for split in ("train", "test"):
            path = folder / "set" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    for split in ("train", "test"):
        lines = ["file_name,label", "a/0.png,0", "b/1.png,1", "a/2.png,0"]
        (folder / "set" / split / "metadata.csv").write_text("\n".join(lines))
    lines = [json.dumps({"file_name": f"{'ab'[n % 2]}/{n}.png", "label": n % 2}) for n in range(3)]
    (folder / "set" / "metadata.jsonl").write_text("\n".join(lines))


def _make_tars(folder: Path) -> None:
    images = _images()
    published.write_tar(folder / "own.tar", {f"{'ab'[n % 2]}/{n}.png": data for n, data in enumerate(images)})
    published.write_tar(folder / "own.tar.gz", {f"{n}.png": data for n, data in enumerate(images)}, "w:gz")
    shard = {f"{n}.{end}": data for n, image in enumerate(images) for end, data in (("png", image), ("cls", b"1"))}
    published.write_tar(folder / "shards-000.tar", shard)
    inner = {f"n0144076{n}.tar": published.tar_bytes({f"n0144076{n}_1.JPEG": images[n]}) for n in range(2)}
    published.write_tar(folder / "nested.tar", inner)
    import zipfile

    with zipfile.ZipFile(folder / "own.zip", "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(zipfile.ZipInfo(f"{'ab'[number % 2]}/{number}.png"), image)


def _make_arrays(folder: Path) -> None:
    images, labels = published.random_images(4, 6)
    np.save(folder / "images.npy", images)
    np.savez(folder / "images.npz", images=images, labels=labels)
    np.savez_compressed(folder / "split.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])


def _make_parquet(folder: Path) -> None:
    _, labels = published.random_images(3, 6, classes=2)
    published.huggingface_parquet(folder / "set" / "train-00000-of-00001.parquet", _images(), labels, ["a", "b"])
    published.huggingface_parquet(folder / "set" / "test-00000-of-00001.parquet", _images(2), labels[:2], ["a", "b"])


def _make_cifar(folder: Path) -> None:
    batch = published.random_images(2, 32)
    files = published.cifar10_files([batch] * 5, batch)
    binary = published.cifar10_binary_files([batch] * 5, batch)
    for name, members in (("cifar-10-batches-py", files), ("cifar-10-batches-bin", binary)):
        for member, data in members.items():
            path = folder / name.removeprefix("cifar-10-batches-") / name / member
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    packed = {f"cifar-10-batches-py/{name}": data for name, data in files.items()}
    published.write_tar(folder / "cifar.tar", packed)


def _make_imagenet(folder: Path) -> None:
    images, labels = published.random_images(2, 64)
    for path in (folder / "npz", folder / "pickled"):
        path.mkdir()
    for name in (*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"):
        published.imagenet_npz(folder / "npz" / f"{name}.npz", images, labels)
        published.imagenet_pickle(folder / "pickled" / name, images, labels, published.python2_pickle)


def _make_ilsvrc(folder: Path) -> None:
    images, ids = _images(2), ("n01440764", "n01440765")
    (folder / "set").mkdir()
    inner = {
        f"{name}.tar": published.tar_bytes({f"{name}_1.JPEG": image}) for name, image in zip(ids, images, strict=True)
    }
    published.write_tar(folder / "set" / "ILSVRC2012_img_train.tar", inner)
    pictures = {f"ILSVRC2012_val_0000000{n + 1}.JPEG": image for n, image in enumerate(images)}
    published.write_tar(folder / "set" / "ILSVRC2012_img_val.tar", pictures)
    published.devkit_tar(folder / "set" / "ILSVRC2012_devkit_t12.tar.gz", ids, [1, 2])


def _make_lsun(folder: Path) -> None:
    images = {f"{number:040x}": data for number, data in enumerate(_images())}
    for split in ("train", "val"):
        (folder / "set").mkdir(exist_ok=True)
        published.lsun_database(folder / "set" / f"bedroom_{split}_lmdb", images)


def _prepare_all(name: str = "mine", *words: str, sources: str = "*") -> Callable[[], None]:
    def read() -> None:
        for number, source in enumerate(sorted(Path().glob(sources))):
            command("data", "prepare", name, "--source", str(source), "--out", f"out{number}", *words)

    return read


def _make_pickle(folder: Path) -> None:
    images, labels = published.random_images(2, 4)
    batch = {"data": published.planes(images), "labels": labels.tolist(), "names": ["a", b"b", (1, 2.5, None, True)]}
    import pickle

    (folder / "python2").write_bytes(published.python2_pickle(batch))
    for protocol in range(2, 6):
        (folder / f"python3-{protocol}").write_bytes(pickle.dumps(batch | {"labels": labels}, protocol))


def _read_pickle() -> None:
    from progdistill.data.importers.restricted_pickle import load_batch, load_restricted

    for path in Path().iterdir():
        for load in (load_restricted, load_batch):
            try:
                with open(path, "rb") as file:
                    load(file, path.name)
            except UsageError:
                pass


# Evaluation and reports


def _make_features(folder: Path) -> None:
    import torch
    from torch import nn

    network = torch.jit.script(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()))
    torch.jit.save(network, str(folder / "features.pt"))
    np.savez(folder / "statistics.npz", mu=np.zeros(4), sigma=np.eye(4))


def _read_features() -> None:
    line = ("plan", "--dataset", "digits", "--set", "evaluation.evaluator=features_file", "--set")
    command(*line, "evaluation.weights=features.pt", "--set", "evaluation.reference_statistics=statistics.npz")


def _make_report(folder: Path) -> None:
    from tests.report.runs import example_run

    for name in ("one", "two"):
        (folder / name / "report").mkdir(parents=True)
        (folder / name / "report" / "input.json").write_text(example_run(name).model_dump_json())


def _read_report() -> None:
    command("report", "one")
    command("compare", "one", "two")


TARGETS = {
    "options": Target(_make_arguments, _read_arguments),
    "toml": Target(_make_toml, lambda: command("plan")),
    "deployment": Target(_make_deployment, _read_deployment),
    "store": Target(_make_store, _read_store, "store/**/*.json", _mend_document),
    "snapshots": Target(_make_snapshots, _read_snapshots, "store/snapshots/**/*", _mend_snapshot),
    "exported": Target(_make_exported, _read_exported, mend=_mend_exported),
    "diffusers": Target(_make_diffusers, _read_diffusers),
    "pickled-weights": Target(_make_pickled, _read_diffusers, "**/*.bin"),
    "pipelines": Target(_make_pipelines, _read_pipelines, "*/**/*.json", alone=True),
    "dataset": Target(_make_dataset, _read_dataset, "data/mine/*", _mend_dataset),
    "images": Target(_make_images, _prepare_all("mine", "--image-size", "8")),
    "image-folder": Target(_make_folder, _prepare_all()),
    "archives": Target(_make_tars, _prepare_all(), alone=True),
    "arrays": Target(_make_arrays, _prepare_all(), alone=True),
    "parquet": Target(_make_parquet, _prepare_all()),
    "cifar10": Target(_make_cifar, _prepare_all("cifar10", "--unverified"), alone=True),
    "imagenet64": Target(_make_imagenet, _prepare_all("imagenet64", "--unverified"), alone=True),
    "ilsvrc": Target(_make_ilsvrc, _prepare_all("imagenet64", "--unverified")),
    "lsun": Target(_make_lsun, _prepare_all("lsun_bedroom", "--unverified"), "**/data.mdb"),
    "pickles": Target(_make_pickle, _read_pickle, alone=True),
    "features": Target(_make_features, _read_features),
    "report": Target(_make_report, _read_report),
}
"""Every entrance for foreign input that is a file or an option."""
