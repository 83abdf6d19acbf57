"""Pickles of arrays are read; pickles that would do anything else are refused."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progdistill.data.importers.restricted_pickle import load_restricted
from progdistill.errors import UsageError
from tests.data.published import python2_pickle


def load(data: bytes) -> Any:
    return load_restricted(io.BytesIO(data), "batch")


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_and_plain_containers_are_read_from_every_protocol_of_published_files(protocol: int) -> None:
    arrays = {
        "pixels": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "slice": np.arange(10)[::3],
    }
    others = {"labels": [1, 2], "name": "x", "bytes": b"\xff", "nested": ({"a": (1.5, None, True)},)}
    loaded = load(pickle.dumps({**arrays, **others}, protocol=protocol))
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)
    assert {name: loaded[name] for name in others} == others


def test_what_python_2_wrote_is_read_with_keys_as_text() -> None:
    loaded = load(python2_pickle({"data": np.arange(600, dtype=np.uint8), "labels": [3]}))
    assert loaded["labels"] == [3]
    assert np.array_equal(loaded["data"], np.arange(600, dtype=np.uint8))


class Calls:
    """A pickle of this object calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "executed"
    for call in (
        Calls(os.system, f"touch {trace}"),
        Calls(eval, f"open({str(trace)!r}, 'w')"),
        Calls(np.load, str(trace)),
        Calls(__import__, "os"),
    ):
        with pytest.raises(UsageError, match="refused: it is a pickle that uses"):
            load(pickle.dumps({"data": call}, protocol=protocol))
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], object),
        np.zeros(2, [("a", np.uint8)]),
        np.array(["text"]),
        np.datetime64("2020-01-01"),
        {1, 2, complex(1, 2)},
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="refused"):
        load(pickle.dumps(value))


def test_numpys_own_constructors_are_never_called_with_the_files_arguments() -> None:
    huge = Calls(np._core.multiarray._reconstruct, np.ndarray, (2**40,), b"b")
    with pytest.raises(UsageError):
        load(pickle.dumps(Calls(np.frombuffer, huge)))
    assert load(pickle.dumps([1])) == [1]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_pickle_is_named(share: float) -> None:
    data = pickle.dumps({"data": np.zeros(1000, np.uint8)})
    with pytest.raises(UsageError, match="batch is damaged or truncated"):
        load(data[: int(len(data) * share)])
