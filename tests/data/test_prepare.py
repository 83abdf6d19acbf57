"""Repeated preparation: an interrupted preparation resumes, and a changed source is refused."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from progdistill.data import split_writer
from progdistill.data.dataset import info_of, require_data_of
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.prepare import prepare
from progdistill.data.preprocess import Preprocessing
from progdistill.data.source import Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import Interrupted, UsageError
from progdistill.store.open import open_store
from tests.data.datasets import image_folder, prepared, rows, stored
from tests.data.published import encoded, random_images

REPOSITORY = Path(__file__).parents[2]
IMAGES, LABELS = random_images(200, 8, classes=4)


class ArrayInMemory(Source):
    """IMAGES, some of which cannot be decoded; Ctrl-C comes before image `stop`, the first time."""

    def __init__(self, stop: int | None = None, unreadable: frozenset[int] = frozenset()) -> None:
        self._stop, self._unreadable = stop, unreadable
        self.read_from: list[int] = []
        self.facts = SourceFacts(
            importer="test",
            location="memory",
            description="as they are",
            identity={"seed": 0},
            channels=3,
            image_size=8,
            class_names=("a", "b", "c", "d"),
            horizontal_flip_safe=True,
            splits={"train": len(IMAGES)},
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        self.read_from.append(start)
        for number in range(start, len(IMAGES)):
            if number == self._stop:
                self._stop = None
                raise KeyboardInterrupt
            pixels = self._broken if number in self._unreadable else IMAGES[number]
            yield SourceImage(f"image {number}", int(LABELS[number]), pixels)

    @staticmethod
    def _broken() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        raise UnreadableImageError("broken")


@pytest.mark.parametrize("stop", [0, 57, 199])
def test_an_interrupted_preparation_goes_on_and_gives_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(split_writer, "CHECKPOINT_IMAGES", 10)
    unreadable = frozenset({3, 56, 57, 198, 199})
    whole = prepared(ArrayInMemory(unreadable=unreadable), tmp_path, "whole")
    source = ArrayInMemory(stop, unreadable)
    with pytest.raises(Interrupted, match="run the same command again"):
        prepared(source, tmp_path, "mine")
    assert not (tmp_path / "mine").exists()
    info = prepared(source, tmp_path, "mine")
    kept = np.array([number for number in range(len(IMAGES)) if number not in unreadable])
    assert stored(info) == rows(IMAGES[kept], LABELS[kept])
    assert info.fingerprint == whole.fingerprint
    # Images in flight when Ctrl-C came were not stored: they are read again, nothing before them.
    assert 0 <= stop - source.read_from[1] <= 50
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["mine", "whole"]


KILLED = """
import os, signal, sys
from pathlib import Path
from progdistill.data import split_writer
from progdistill.data.importers.arrays import ArraysSource
from tests.data.datasets import image_folder, prepared

class Killed(ArraysSource):
    def read(self, split, start):
        for number, image in enumerate(super().read(split, start), start):
            if number == 157:
                os.kill(os.getpid(), signal.SIGKILL)
            yield image

split_writer.CHECKPOINT_IMAGES = 10
prepared(Killed(Path(sys.argv[1]), horizontal_flip_safe=True), Path(sys.argv[2]))
"""


def test_a_killed_preparation_resumes_and_gives_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read_from = tmp_path / "x.npz", []
    np.savez(path, images=IMAGES, labels=LABELS)
    whole = prepared(ArraysSource(path, horizontal_flip_safe=True), tmp_path, "whole")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path)], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "mine").exists()
    read = ArraysSource.read
    monkeypatch.setattr(ArraysSource, "read", lambda *arguments: read_from.append(arguments[2]) or read(*arguments))
    info = prepared(ArraysSource(path, horizontal_flip_safe=True), tmp_path)
    assert info.fingerprint == whole.fingerprint
    assert stored(info) == rows(IMAGES, LABELS)
    # Of the images read, some were still in flight, and a mark is made every tenth.
    assert len(read_from) == 1 and 157 - 70 <= read_from[0] < 157


def test_too_many_unreadable_images_end_a_preparation_with_the_last_ones_name(tmp_path: Path) -> None:
    source = ArrayInMemory(unreadable=frozenset({5, 6, 7}))
    with pytest.raises(UsageError, match=r"3 images cannot be read, the last is image 7 \(broken\)"):
        prepare(source, "mine", str(tmp_path / "mine"), staging_root=tmp_path, max_unreadable=2)
    allowed = prepare(source, "mine", str(tmp_path / "mine"), staging_root=tmp_path, max_unreadable=3)
    assert allowed.prepared_from.unreadable == ("image 5", "image 6", "image 7")


def test_an_array_that_changed_is_not_taken_for_the_one_prepared_before(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    prepared(ArraysSource(path, horizontal_flip_safe=True), tmp_path)
    assert prepared(ArraysSource(path, horizontal_flip_safe=True), tmp_path).splits == {"train": 200}
    size = path.stat().st_size
    np.savez(path, images=255 - IMAGES, labels=LABELS)
    assert path.stat().st_size == size
    with pytest.raises(UsageError, match="already holds dataset mine, .* an earlier state of"):
        prepared(ArraysSource(path, horizontal_flip_safe=True), tmp_path)


def test_other_options_are_not_taken_for_those_prepared_before(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    for number, image in enumerate(IMAGES[:4]):
        (tmp_path / "cats" / f"{number}.png").write_bytes(encoded(image))
    preprocessing = Preprocessing(image_size=None)
    prepared(image_folder(tmp_path / "cats", preprocessing, horizontal_flip_safe=True), tmp_path)
    smaller = preprocessing.model_copy(update={"image_size": 4})
    for changed, flips in ((preprocessing, False), (smaller, True)):
        with pytest.raises(UsageError, match="or with other options: remove it first"):
            prepared(image_folder(tmp_path / "cats", changed, horizontal_flip_safe=flips), tmp_path)


def test_data_that_a_checkpoint_was_not_trained_on_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    out = str(tmp_path / "mine")
    info = info_of(prepare(ArrayInMemory(), "mine", out, staging_root=tmp_path), open_store(out).uri)
    require_data_of(info, info.fingerprint, "checkpoint abcd")
    with pytest.raises(UsageError, match=f"abcd was trained on .* {'f' * 64}, but mine in .* {info.fingerprint}"):
        require_data_of(info, "f" * 64, "checkpoint abcd")
