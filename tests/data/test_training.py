"""From every published format to a few updates of training, with its labels and image size."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.data.importers.registry import open_source
from progdistill.data.loader import TrainingLoader
from progdistill.data.preprocess import Preprocessing
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.models.config import DenoiserConfig, UNetConfig
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.store.open import open_store
from progdistill.training.config import TrainingSettings
from progdistill.training.distributed import Rank
from progdistill.training.execution import Execution
from progdistill.training.loop import Trained, TrainingHooks, TrainingTask, train
from progdistill.training.objective import BaseObjective
from progdistill.training.snapshots import SnapshotWriter
from tests.data.datasets import prepared
from tests.data.published import (
    cifar10_binary_files,
    cifar10_files,
    devkit_tar,
    encoded,
    huggingface_parquet,
    imagenet_npz,
    imagenet_pickle,
    lsun_database,
    python2_pickle,
    random_images,
    tar_bytes,
    write_tar,
)

UPDATES = 2
BATCH = 4
WORDNET_IDS = ("n01440764", "n01443537")


def cifar10_python(folder: Path) -> Path:
    return _cifar10(folder, "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_files)


def cifar10_binary(folder: Path) -> Path:
    return _cifar10(folder, "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10_binary_files)


def _cifar10(folder: Path, archive: str, inside: str, files: Callable[..., dict[str, bytes]]) -> Path:
    images, labels = random_images(12, 32)
    parts = [(images[2 * k : 2 * k + 2], labels[2 * k : 2 * k + 2]) for k in range(6)]
    content = {f"{inside}/{name}": data for name, data in files(parts[:5], parts[5]).items()}
    return write_tar(folder / archive, content, "w:gz")


def imagenet_batches(folder: Path) -> Path:
    imagenet_npz(folder / "train_data_batch_1.npz", *random_images(6, 64))
    imagenet_npz(folder / "val_data.npz", *random_images(2, 64, seed=1))
    return folder


def imagenet_old_batches(folder: Path) -> Path:
    imagenet_pickle(folder / "train_data_batch_1", *random_images(6, 64), python2_pickle)
    imagenet_pickle(folder / "val_data", *random_images(2, 64, seed=1), pickle.dumps)
    return folder


def imagenet_tars(folder: Path) -> Path:
    photographs, _ = random_images(6, 80)
    inner = {
        f"{name}.tar": tar_bytes({f"{name}_{k}.JPEG": encoded(photographs[3 * n + k], "JPEG") for k in range(3)})
        for n, name in enumerate(WORDNET_IDS)
    }
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    validation = {f"ILSVRC2012_val_{k:08d}.JPEG": encoded(random_images(1, 70, seed=k)[0][0]) for k in (1, 2)}
    write_tar(folder / "ILSVRC2012_img_val.tar", validation)
    devkit_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", WORDNET_IDS, [2, 1])
    return folder


def lsun(folder: Path) -> Path:
    files = {f"{k:040x}": encoded(image) for k, image in enumerate(random_images(5, 256)[0])}
    lsun_database(folder / "church_outdoor_train_lmdb", files)
    return folder


def folder_of_images(folder: Path) -> Path:
    for number, (image, label) in enumerate(zip(*random_images(6, 20, classes=2), strict=True)):
        path = folder / ("cat", "dog")[label] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(image[: 16 + number]))
    return folder


def image_tar(folder: Path) -> Path:
    files = {f"{('cat', 'dog')[k % 2]}/{k}.png": encoded(image) for k, image in enumerate(random_images(6, 16)[0])}
    return write_tar(folder / "images.tar", files)


def parquet(folder: Path) -> Path:
    images, labels = random_images(6, 16, classes=2)
    huggingface_parquet(folder / "train-00000-of-00001.parquet", [encoded(i) for i in images], labels, ["cat", "dog"])
    return folder


def arrays(folder: Path) -> Path:
    images, labels = random_images(6, 16, classes=2)
    np.savez(folder / "images.npz", images=images, labels=labels)
    return folder / "images.npz"


OWN = Preprocessing(image_size=None)

FORMS = [
    ("cifar10", cifar10_python, OWN, 32, 10),
    ("cifar10", cifar10_binary, OWN, 32, 10),
    ("imagenet64", imagenet_batches, OWN, 64, 1000),
    ("imagenet64", imagenet_old_batches, OWN, 64, 1000),
    ("imagenet64", imagenet_tars, OWN, 64, 2),
    ("lsun_church", lsun, OWN, 128, 0),
    ("cats", folder_of_images, Preprocessing(image_size=16), 16, 2),
    ("cats", image_tar, OWN, 16, 2),
    ("cats", parquet, OWN, 16, 2),
    ("cats", arrays, OWN, 16, 2),
]
"""Name, how its files are made, rule, size, classes."""


@pytest.mark.parametrize(
    ("name", "write", "rule", "size", "classes"), FORMS, ids=[write.__name__ for _, write, *_ in FORMS]
)
def test_training_runs_on_every_published_form(
    tmp_path: Path, name: str, write: Callable[[Path], Path], rule: Preprocessing, size: int, classes: int
) -> None:
    (tmp_path / "files").mkdir()
    source = open_source(name, write(tmp_path / "files"), rule, horizontal_flip_safe=True, unverified=True)
    info = prepared(source, tmp_path / "data", name)
    assert (info.image_size, info.num_classes, info.channels) == (size, classes, 3)
    model = tiny_denoiser(info)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = a_few_updates(info, model, tmp_path)
    assert [update for update, _ in trained.loss_curve] == [1, 2]
    assert all(math.isfinite(loss) and loss > 0 for _, loss in trained.loss_curve)
    assert any(not torch.equal(trained.weights[key], value) for key, value in before.items())


def tiny_denoiser(info: DatasetInfo) -> Denoiser:
    """The smallest network for a dataset's images and classes."""
    network = UNetConfig(
        image_channels=info.channels,
        image_size=info.image_size,
        base_channels=4,
        channel_multipliers=(1, 1),
        residual_blocks=1,
        middle_attention="none",
        num_classes=info.num_classes,
        groups=2,
    )
    return build_denoiser(DenoiserConfig(network=network, prediction=PredictionType.V), seed=0)


def a_few_updates(info: DatasetInfo, model: Denoiser, folder: Path) -> Trained:
    """Train for UPDATES updates of mirrored batches."""
    settings = TrainingSettings(
        updates=UPDATES, batch_size=BATCH, learning_rate=1e-3, loss_weight=LossWeight.SNR_PLUS_ONE, horizontal_flip=True
    )
    loader = TrainingLoader(info, batch_size=BATCH, seed=0, flip=settings.horizontal_flip)
    task = TrainingTask(
        label="test",
        settings=settings,
        objective=BaseObjective(settings.loss_weight),
        loader=loader,
        seed=0,
        purpose="test",
        rank=Rank("cpu", torch.get_num_threads()),
        execution=Execution(),
        hooks=TrainingHooks(
            SnapshotWriter(open_store(str(folder / "store")), "0" * 64), 100, should_stop=lambda: False
        ),
    )
    trained = train(task, model, None)
    loader.close()
    return trained
