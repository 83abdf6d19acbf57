"""Loads pickles of numpy arrays and plain containers, without executing anything from the file.

A pickle is a program that can call whatever it names. Here it can name only what numpy writes into a pickled array, and
each of those names resolves to a stand-in in this module, which takes raw bytes and checks them; numpy's own unpickling
code never sees the file. Any other name is refused.
"""

import pickle
from contextlib import suppress
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from progdistill.errors import UsageError


def load_restricted(file: IO[bytes], where: str) -> Any:
    """Load a pickle of numpy arrays and plain containers, written by Python 2 or 3.

    Keys of dictionaries become text. Other strings that Python 2 wrote are bytes. Raises UsageError, which calls the
    file `where`, if it holds anything else or is damaged.
    """
    try:
        return _resolved(_RestrictedUnpickler(file, encoding="bytes").load())
    except _RefusedError as error:
        raise UsageError(f"{where} is refused: it is a pickle that uses {error}") from error
    except Exception as error:  # A damaged pickle raises almost anything.
        raise UsageError(f"{where} is damaged or truncated: {error or type(error).__name__}") from error


def load_batch(file: IO[bytes], where: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Load a pickled dictionary with an array `data` and a list or an array `labels`. See `load_restricted`."""
    loaded = load_restricted(file, where)
    batch = loaded if isinstance(loaded, dict) else {}
    data, labels = batch.get("data"), batch.get("labels")
    if isinstance(data, np.ndarray) and isinstance(labels, list | np.ndarray):
        with suppress(ValueError, TypeError, OverflowError):
            return data, np.asarray(labels, np.int64)
    raise UsageError(f"{where} is the wrong file: it has no array data with integer labels")


class _RefusedError(Exception):
    """The pickle names something other than an array of numbers."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy.core.", "numpy._core."), name))
        if stand_in is None:
            raise _RefusedError(f"{module}.{name}")
        return stand_in


class _Kind:
    """Stand-in for a dtype: a number type and its byte order."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        self.dtype = np.dtype(code.decode("ascii") if isinstance(code, bytes) else code)
        if self.dtype.kind not in "biuf":
            raise _RefusedError(f"arrays of {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stand-in for an array, which a pickle creates empty and then fills."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        self.values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if by_columns else "C")


def _encoded(text: str, codec: str) -> bytes:
    """What Python 3 writes for bytes in protocols without them."""
    if codec != "latin1":
        raise _RefusedError(f"codec {codec}")
    return text.encode("latin1")


def _resolved(value: Any) -> Any:
    """Replace every stand-in by its array, and decode keys of dictionaries."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {key.decode("latin1") if isinstance(key, bytes) else key: _resolved(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return type(value)(_resolved(inner) for inner in value)
    return value


_STAND_INS: Final[dict[tuple[str, str], Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encoded,
}
"""By module and name; numpy's modules by their current names."""
