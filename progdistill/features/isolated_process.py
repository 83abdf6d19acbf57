"""The process of `isolated.IsolatedNetwork`: loads one network, then answers images with features.

`python -P -m progdistill.features.isolated_process REQUESTS ANSWERS` gets the descriptors of two pipes. It ends when
the requests end.
"""

import json
import os
import resource
import sys
from typing import BinaryIO

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from progdistill.features.base import Extract
from progdistill.features.from_file import load_features
from progdistill.features.inception import load_inception
from progdistill.features.isolated import ERROR, TENSORS, read_frame, write_frame


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests to their end; an error is an answer too."""
    try:
        extract = _load(requests)
        write_frame(answers, TENSORS, b"")
        while frame := read_frame(requests):
            with torch.inference_mode():
                found = extract(load_tensors(frame[1])["images"])
            tensors = {"features": found.features, "probabilities": found.probabilities}
            held = {name: t.detach().float().cpu().contiguous() for name, t in tensors.items() if t is not None}
            write_frame(answers, TENSORS, save(held))
    except Exception as error:  # Whatever a foreign network raises.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        write_frame(answers, ERROR, lines[-1][:500].encode(errors="replace"))


def _load(requests: BinaryIO) -> Extract:
    frame = read_frame(requests)
    if frame is None:
        sys.exit(1)
    order = json.loads(frame[1])
    recipe, path, device = order["recipe"], order["path"], order["device"]
    if order["threads"] is not None:
        torch.set_num_threads(order["threads"])
    if device.startswith("cuda"):  # as in training/execution.py, for float32
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    # TorchScript can map files into memory: none may be created, and none may grow.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    load = load_inception if recipe["name"] == "inception" else load_features
    return load(path, recipe, device)


if __name__ == "__main__":
    main(os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb"))
    os._exit(0)  # unloading torch takes most of a second
