"""Loads pickles of numpy arrays and plain containers, without executing anything from the file.

A pickle is a program that can call whatever it names. Here it can name only what numpy writes into a pickled array, and
each of those names resolves to a stand-in in this module, which takes raw bytes and checks them; numpy's own unpickling
code never sees the file. Any other name is refused, and so is any instruction that such a pickle does not need. The
number of instructions and what they allocate are bounded.
"""

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from progdistill.errors import UsageError
from progdistill.escape import one_line

MAX_STEPS: Final = 4_000_000
"""Instructions, each of which may leave a hundred bytes: a batch of a million labels needs fewer."""

MAX_EXPANSION: Final = 8
"""Bytes that instructions may copy, for each byte of the file."""


def load_restricted(file: IO[bytes], where: str) -> Any:
    """Load a pickle of numpy arrays and plain containers, written by Python 2 or 3.

    Keys of dictionaries become text. Other strings that Python 2 wrote are bytes. Raises UsageError, which calls the
    file `where`, if it holds anything else or is damaged.
    """
    try:
        return _resolved(_RestrictedUnpickler(_Input(file)).load(), {})
    except _RefusedError as error:
        raise UsageError(f"{where} is refused: it is a pickle that uses {error}") from error
    except Exception as error:  # A damaged pickle raises almost anything.
        reason = one_line(str(error)[:200]) or type(error).__name__
        raise UsageError(f"{where} is damaged or truncated: {reason}") from error


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


class _Input:
    """A file of which no more can be asked than is there: a length in a pickle may be a lie."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, start = file, file.tell()
        self.size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        self._left = self.size

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise EOFError(f"it ends too early: {size:,} bytes are expected, {self._left:,} are left")
        data = self._file.read(size)
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline()
        self._left -= len(data)
        return data


class _Instructions(dict[int, Callable[[Any], None]]):
    """Counts instructions as they are looked up, and refuses those that pickles of arrays do not need."""

    steps = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise _RefusedError(f"more than {MAX_STEPS:,} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise _RefusedError(f"the instruction {bytes([code])!r}")


class _RestrictedUnpickler(pickle._Unpickler):
    """The library's unpickler in Python, whose memo takes no more room than what is in it."""

    def __init__(self, file: _Input) -> None:
        super().__init__(file, encoding="bytes")
        self._may_copy = MAX_EXPANSION * file.size
        self.dispatch = _Instructions(  # type: ignore[misc]
            {code: self.dispatch[code] for code in _ALLOWED}
        )
        replaced = {pickle.SETITEM: _set_item, pickle.SETITEMS: _set_items, pickle.DICT: _dictionary}
        replaced |= {pickle.BUILD: _build, pickle.REDUCE: _reduce}
        self.dispatch.update({code[0]: function for code, function in replaced.items()})

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy.core.", "numpy._core."), name))
        if stand_in is None:
            raise _RefusedError(one_line(f"{module}.{name}"[:100]))
        return stand_in

    def require_copy(self, size: int) -> None:
        """Count a copy of this many bytes."""
        self._may_copy -= size
        if self._may_copy < 0:
            raise _RefusedError(f"more than {MAX_EXPANSION} times its own size")


_ALLOWED: Final = tuple(
    code[0]
    for code in (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
        *(pickle.LONG, pickle.LONG1, pickle.FLOAT, pickle.BINFLOAT, pickle.STRING, pickle.BINSTRING),
        *(pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.UNICODE),
        *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.EMPTY_LIST, pickle.APPEND),
        *(pickle.APPENDS, pickle.LIST, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2),
        *(pickle.TUPLE3, pickle.EMPTY_DICT, pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT),
        *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL),
    )
)
"""The instructions of numbers, text, bytes, lists, tuples, dictionaries and the memo."""


def _set_item(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    _put(unpickler.stack[-1], [key, value])


def _set_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    _put(unpickler.stack[-1], items)


def _dictionary(unpickler: Any) -> None:
    items, made = unpickler.pop_mark(), dict[Any, Any]()
    _put(made, items)
    unpickler.append(made)


def _put(dictionary: Any, items: list[Any]) -> None:
    if type(dictionary) is not dict:
        raise _RefusedError("items of what is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes):  # The hash of nested tuples can take for ever.
            raise _RefusedError(f"a key that is no text, {type(key).__name__}")
        dictionary[key] = value


def _build(unpickler: Any) -> None:
    state, made = unpickler.stack.pop(), unpickler.stack[-1]
    if not isinstance(made, _Kind | _Array):
        raise _RefusedError(f"a state of {type(made).__name__}")
    made.__setstate__(state)


def _reduce(unpickler: Any) -> None:
    arguments, function = unpickler.stack.pop(), unpickler.stack[-1]
    if not any(function is stand_in for stand_in in _STAND_INS.values()) or not isinstance(arguments, tuple):
        raise _RefusedError("a call of what is no function")
    unpickler.require_copy(sum(len(value) for value in arguments if isinstance(value, str | bytes)))
    unpickler.stack[-1] = function(*arguments)


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


def _resolved(value: Any, done: dict[int, Any]) -> Any:
    """Replace every stand-in by its array, and decode keys of dictionaries; each container once, however often used."""
    if isinstance(value, _Array):
        return value.values
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in done:
        if isinstance(value, dict):
            items = {key.decode("latin1") if isinstance(key, bytes) else key: value[key] for key in value}
            done[id(value)] = {key: _resolved(inner, done) for key, inner in items.items()}
        else:
            done[id(value)] = type(value)(_resolved(inner, done) for inner in value)
    return done[id(value)]


_STAND_INS: Final[dict[tuple[str, str], Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encoded,
}
"""By module and name; numpy's modules by their current names."""
