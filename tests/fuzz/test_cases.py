"""Input that crashed once is used or refused with a message."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.run import Worker, copy_of
from tests.fuzz.targets import TARGETS

CASES = [
    pytest.param(
        case, marks=[pytest.mark.slow] if case.parent.name == "pipelines" else [], id="-".join(case.parts[-2:])
    )
    for case in sorted(Path(__file__).with_name("cases").glob("*/*"))
]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("worker")) as running:
        yield running


@pytest.fixture(scope="module")
def seeds_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The unharmed input of a target, made once."""
    made: dict[str, Path] = {}

    def make(target: str) -> Path:
        if target not in made:
            made[target] = tmp_path_factory.mktemp("seeds")
            TARGETS[target].make(made[target])
        return made[target]

    return make


@pytest.mark.parametrize("case", CASES)
def test_a_kept_case_no_longer_crashes(
    case: Path, worker: Worker, seeds_of: Callable[[str], Path], tmp_path: Path
) -> None:
    target = case.parent.name
    assert worker.problem(target, copy_of(seeds_of(target), tmp_path / "input", case)) is None


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_unharmed_input_is_read_without_a_problem(
    target: str, worker: Worker, seeds_of: Callable[[str], Path], tmp_path: Path
) -> None:
    assert worker.problem(target, copy_of(seeds_of(target), tmp_path / "input")) is None
