"""Networks from files, which can run code (TorchScript), in a process that holds no credentials.

The process gets images and gives features, as safetensors through pipes: nothing that it says is unpickled. Its
environment has no secrets, and it can neither create a file nor make one longer (`isolated_process.py`).
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from progdistill.errors import UsageError

KEPT_VARIABLES: Final = ("LANG", "PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
KEPT_PREFIXES: Final = ("CUDA_", "HIP_", "KMP_", "LC_", "MKL_", "NVIDIA_", "OMP_", "ROCR_")
"""What the process sees of the environment: where programs and devices are."""

FILE_NAME: Final = "inception-2015-12-05.pt"
"""Of any network, in a folder of its own: the name that clean-fid looks for."""

MOST_FRAME_BYTES: Final = 2**31
TENSORS: Final = b"T"
ERROR: Final = b"E"


class IsolatedNetwork:
    """A network in a process of its own, which ends with this object or with this process."""

    def __init__(
        self, weights: bytes, name: str, recipe: Mapping[str, JsonValue], device: str, *, threads: int | None = None
    ) -> None:
        """Start the process.

        Args:
            weights: Contents of the network's file, whose digest has been checked.
            name: Of the file, for messages.
            recipe: Of the evaluator.
            device: Where the network runs; the CPU for other devices than `cpu` and `cuda`.
            threads: Of torch; None: as torch chooses.

        Raises:
            UsageError: The network cannot be loaded.
        """
        self._name = name
        with tempfile.TemporaryDirectory(prefix="progdistill-network-") as folder:
            path = Path(folder, FILE_NAME)
            path.write_bytes(weights)
            # Not on standard output, which the network may print on.
            (reading, answer_to), (request_from, writing) = os.pipe(), os.pipe()
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "progdistill.features.isolated_process",
                    str(request_from),
                    str(answer_to),
                ],
                env=_environment(folder),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(request_from, answer_to),
                start_new_session=True,  # Ctrl-C is for this process
            )
            os.close(request_from)
            os.close(answer_to)
            self._requests, self._answers = os.fdopen(writing, "wb"), os.fdopen(reading, "rb")
            self._stop = weakref.finalize(self, _stop, process, self._requests, self._answers)
            here = device if device.startswith(("cpu", "cuda")) else "cpu"
            order = {"path": str(path), "recipe": dict(recipe), "device": here, "threads": threads}
            self._send(json.dumps(order).encode())
            self._receive()

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Of images [n, c, h, w]: `features` [n, d], and `probabilities` [n, k] if the network has classes.

        Raises UsageError if the network fails, or gives other shapes.
        """
        from safetensors.numpy import save

        self._send(save({"images": np.ascontiguousarray(images)}))
        found = self._receive()
        for name, array in found.items():
            if array.ndim != 2 or len(array) != len(images) or array.dtype != np.float32:
                raise UsageError(
                    f"{self._name} gives {name} of shape {array.shape} for {len(images)} images: a network must give"
                    " one vector per image, [n, d]"
                )
        if "features" not in found:
            raise UsageError(f"{self._name} gives no features")
        return found

    def _send(self, data: bytes) -> None:
        try:
            write_frame(self._requests, TENSORS, data)
        except OSError:
            raise UsageError(f"{self._name} ended the process that runs it") from None

    def _receive(self) -> dict[str, NDArray[np.float32]]:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        frame = read_frame(self._answers)
        if frame is None:
            raise UsageError(f"{self._name} ended the process that runs it")
        kind, data = frame
        if kind == ERROR:
            raise UsageError(f"{self._name} cannot be used: {data.decode(errors='replace')}")
        try:
            return load(data) if data else {}
        except (SafetensorError, ValueError, KeyError) as error:
            raise UsageError(f"{self._name} cannot be used: its process gave no features: {error}") from None


def write_frame(file: BinaryIO, kind: bytes, data: bytes) -> None:
    """Write one message: its kind, its length and its bytes."""
    file.write(kind + len(data).to_bytes(8, "big"))
    file.write(data)
    file.flush()


def read_frame(file: BinaryIO) -> tuple[bytes, bytes] | None:
    """Read one message: kind and bytes. None where the writer has gone."""
    head = file.read(9)
    length = int.from_bytes(head[1:], "big")
    if len(head) < 9 or length > MOST_FRAME_BYTES:
        return None
    data = file.read(length)
    return (head[:1], data) if len(data) == length else None


def feature_count(weights: bytes, name: str, recipe: Mapping[str, JsonValue], shape: tuple[int, int, int]) -> int:
    """Run a network on one blank image [c, h, w], and return how many features it gives.

    Raises UsageError, which says what the file is, if it is no such network.
    """
    if recipe.get("format") != "onnx" and (problem := problem_of_torchscript(weights)):
        raise UsageError(
            f"{name} is {problem}: give a network saved by torch.jit.script(network).save(FILE), or an ONNX file"
            " (*.onnx)"
        )
    found = IsolatedNetwork(weights, name, recipe, "cpu")(np.zeros((1, *shape), np.uint8))
    return int(found["features"].shape[1])


def problem_of_torchscript(data: bytes) -> str | None:
    """What a file is that is not TorchScript; None for TorchScript. Nothing is unpickled."""
    if not data:
        return "empty"
    if data.lstrip()[:1] == b"<":
        return "an HTML page, such as a failed download leaves"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file (git lfs pull fetches it)"
    if data.startswith(b"\x80"):
        return "a pickle, not TorchScript"
    if not data.startswith(b"PK"):
        return "not TorchScript"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = {entry.rpartition("/")[2] for entry in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a damaged archive; it may be cut short"
    if "constants.pkl" in names:
        return None
    return "a state dict or another pickle of torch.save, not TorchScript" if "data.pkl" in names else "not TorchScript"


def _environment(home: str) -> dict[str, str]:
    found = {
        name: value for name, value in os.environ.items() if name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)
    }
    if folders := os.environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders.split(os.pathsep)))
    return {**found, "HOME": home}


def _stop(process: "subprocess.Popen[bytes]", *pipes: BinaryIO) -> None:
    """Close the pipes, at which the process ends; kill it if it is still busy."""
    for pipe in pipes:
        with suppress(OSError):  # of what it has not read
            pipe.close()
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
