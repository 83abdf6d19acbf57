"""Files that are whole or absent, never half."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the file first, then put it in place in one step."""
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(data)
    os.replace(draft, path)
