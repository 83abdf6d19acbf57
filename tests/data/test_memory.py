"""No importer loads a whole dataset into memory: each prepares 240 MB of pixels with 160 MB of free memory.

The limit is the kernel's (RLIMIT_DATA: heap and private memory, not files that are mapped), set when all
modules have been imported, for two threads: each takes some 40 MB to seal a shard. CIFAR-10 and ImageNet's
older pickles are left out: their files are a fraction of the whole, and one at a time is in memory. Parquet
is measured by Arrow's own count in test_parquet.py, since its allocator reserves more than it uses.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from tests.data.published import encoded, random_images, write_tar

REPOSITORY = Path(__file__).parents[2]
SIZE, BYTES, SPARE_BYTES = 128, 240_000_000, 160_000_000
COUNT = BYTES // (3 * SIZE * SIZE)

PROGRAM = """
import os, resource, sys
from pathlib import Path
import lmdb, numpy, pyarrow
from progdistill.data.preprocess import Preprocessing
from progdistill.data.importers.registry import open_source
from progdistill.data.prepare import prepare

name, source, out, spare = sys.argv[1:]
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + int(spare),) * 2)
preprocessing = Preprocessing(image_size=None)
opened = open_source(name, Path(source), preprocessing, horizontal_flip_safe=True, unverified=True)
print(prepare(opened, name, out, staging_root=Path(out).parent).counts["train"])
"""


def photograph() -> bytes:
    """A file as large as its pixels."""
    return encoded(random_images(1, SIZE)[0][0])


def image_folder(folder: Path) -> Path:
    (folder / "0.png").write_bytes(photograph())
    for number in range(1, COUNT):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    return folder


def image_tar(folder: Path) -> Path:
    return write_tar(folder / "images.tar", dict.fromkeys(map("{}.png".format, range(COUNT)), photograph()))


def lsun(folder: Path) -> Path:
    place, data = str(folder / "church_outdoor_train_lmdb"), photograph()
    with lmdb.open(place, map_size=2**29) as environment, environment.begin(write=True) as transaction:
        for number in range(COUNT):
            transaction.put(f"{number:040x}".encode(), data)
    return folder


def arrays(folder: Path) -> Path:
    np.savez(folder / "images.npz", images=np.zeros((COUNT, SIZE, SIZE, 3), np.uint8))
    return folder / "images.npz"


def imagenet_batch(folder: Path) -> Path:
    data = np.zeros((BYTES // (3 * 64 * 64), 3 * 64 * 64), np.uint8)
    np.savez(folder / "train_data_batch_1.npz", data=data, labels=np.ones(len(data), np.int64))
    return folder


FORMS = [
    ("mine", image_folder),
    ("mine", image_tar),
    ("mine", arrays),
    ("lsun_church", lsun),
    ("imagenet64", imagenet_batch),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: what is in it is large."""
    (tmp_path / "files").mkdir()
    yield tmp_path
    shutil.rmtree(tmp_path)


def prepared(name: str, source: Path, out: Path, spare: int) -> "subprocess.CompletedProcess[str]":
    """Prepare in a process that gets `spare` bytes of memory beyond what its modules take."""
    arguments = [name, str(source), str(out), str(spare)]
    # Allocators that reserve arenas ahead of need would make the limit a matter of luck.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    line = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "write"), FORMS, ids=[write.__name__ for _, write in FORMS])
@pytest.mark.slow
def test_a_dataset_larger_than_memory_is_prepared(folder: Path, name: str, write: Callable[[Path], Path]) -> None:
    process = prepared(name, write(folder / "files"), folder / "out", SPARE_BYTES)
    assert process.returncode == 0, process.stderr[-2000:]
    assert int(process.stdout) > 0.95 * COUNT


def test_the_limit_is_one(folder: Path) -> None:
    process = prepared("mine", arrays(folder / "files"), folder / "out", 1_000_000)
    assert process.returncode != 0 and "Memory" in process.stderr
