"""emptyDir volumes, without mounting anything.

A folder of the pod stands for each, and the mount path is replaced by it in the values and arguments that the
container gets. /dev/shm and /tmp are left alone: the test machine has them, and what tests share with pods
often lies under the latter.
"""

import re
from pathlib import Path

from tests.kubernetes_api.storage import Object

_LEFT_ALONE = ("/dev/shm", "/tmp")


def resolve(pod: Object, folder: Path, text: str) -> str:
    """The text with mount paths replaced by the folders that stand for them."""
    for mount in pod["spec"]["containers"][0].get("volumeMounts") or []:
        path = mount["mountPath"].rstrip("/")
        if path not in _LEFT_ALONE:
            own = folder / "volumes" / mount["name"]
            own.mkdir(parents=True, exist_ok=True)
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", str(own), text)
    return text
