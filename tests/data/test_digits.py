"""The embedded digits: prepared on first use, found by name, the same everywhere."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.reading import read_split
from progdistill.errors import UsageError

FIND = "import sys; from pathlib import Path; from progdistill.data.dataset import find_dataset;"


def test_digits_are_there_without_any_preparation(digits: DatasetInfo) -> None:
    assert (digits.channels, digits.image_size, digits.num_classes) == (1, 8, 10)
    assert digits.splits == {"train": 1437, "test": 360}
    assert digits.class_names == tuple("0123456789")
    assert not digits.horizontal_flip_safe


@pytest.mark.parametrize("split", ["train", "test"])
def test_they_are_scikit_learns_with_every_fifth_in_the_test_split(digits: DatasetInfo, split: str) -> None:
    source = load_digits()
    pixels = np.round(source.images * 255 / 16).astype(np.uint8)
    chosen = (np.arange(len(pixels)) % 5 == 0) == (split == "test")
    images, labels = read_split(digits, split)
    stored = sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))
    wanted = zip(source.target[chosen], pixels[chosen], strict=True)
    assert stored == sorted((int(label), image.tobytes()) for label, image in wanted)


def test_their_fingerprint_is_the_same_on_every_machine(digits: DatasetInfo) -> None:
    assert digits.fingerprint == "393f12e94a3bdf2a115f14cd48a8db533446a8afa364c921829acc379a0138f1"


def test_finding_them_again_writes_nothing(digits: DatasetInfo) -> None:
    root = Path(digits.location).parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert find_dataset("digits", root) == digits
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_processes_that_prepare_at_once_agree_and_leave_nothing_behind(digits: DatasetInfo, tmp_path: Path) -> None:
    line = f"{FIND} print(find_dataset('digits', Path(sys.argv[1])).fingerprint)"

    def prepare(_: int) -> str:
        return subprocess.check_output([sys.executable, "-c", line, str(tmp_path)], text=True).strip()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(prepare, range(4))) == {digits.fingerprint}
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_opening_them_imports_no_heavy_library(digits: DatasetInfo) -> None:
    heavy = "{'torch', 'sklearn', 'scipy', 'pyarrow', 'boto3', 'PIL'}"
    line = f"{FIND} find_dataset('digits', Path(sys.argv[1])); print(sorted({heavy} & set(sys.modules)))"
    root = str(Path(digits.location).parent)
    assert subprocess.check_output([sys.executable, "-c", line, root], text=True).strip() == "[]"


def test_preparing_them_does_not_import_scikit_learn(tmp_path: Path) -> None:
    line = f"{FIND} find_dataset('digits', Path(sys.argv[1])); print('sklearn' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", line, str(tmp_path)], text=True).strip() == "False"


def test_a_data_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="PROGDISTILL_DATA"):
        find_dataset("digits", tmp_path / "file")
