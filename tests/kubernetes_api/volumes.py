"""emptyDir volumes, without mounting anything.

A folder of the pod stands for each, and the mount path is replaced by it in the values and arguments that the
container gets. /dev/shm is left alone: the test machine has one.
"""

import re
from pathlib import Path

from tests.kubernetes_api.storage import Object

_SHARED_MEMORY = "/dev/shm"


def resolve(pod: Object, folder: Path, text: str) -> str:
    """The text with mount paths replaced by the folders that stand for them."""
    for mount in pod["spec"]["containers"][0].get("volumeMounts") or []:
        path = mount["mountPath"].rstrip("/")
        if path != _SHARED_MEMORY:
            own = folder / "volumes" / mount["name"]
            own.mkdir(parents=True, exist_ok=True)
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", str(own), text)
    return text
