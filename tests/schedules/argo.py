"""Runs a compiled workflow template as Argo would, each pod's own command as a real process.

It knows what this project's template holds: DAGs, steps that call themselves, fan-out over a list, `when`
and substitution. A pod gets a folder of its own for what is its disk in a cluster (Metaflow writes results
below /mnt/out, so /mnt is mounted privately), and its output parameters are what it wrote there.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.store.s3_server import ENVIRONMENT

Values = dict[str, str]
SWITCH = re.compile(r"tasks\['([\w-]+)'\].*\['switch-step'\] : nil\) == '(\w+)'")
BASE64 = re.compile(r"=toBase64\(([\w.]+)\['([\w-]+)'\]\)")
AS_IN_A_POD = """mount --bind "$0" /mnt && exec unshare --map-user=1000 --map-group=1000 -- "$@\""""
PRIVATE_MNT = ("unshare", "--map-root-user", "--mount", "bash", "-c", AS_IN_A_POD)
"""Run a command with a folder, the next argument, in place of /mnt.

Whoever mounts has to be root, but the command may not: tar would give files to owners that are not here.
"""


def can_run_pods() -> bool:
    """Whether processes may mount privately here, and find checkout and interpreter when they have."""
    looks = ("test", "-e", __file__, "-a", "-e", sys.executable)
    pod = [*PRIVATE_MNT, str(Path(__file__).parent), *looks]
    return shutil.which(pod[0]) is not None and subprocess.run(pod, capture_output=True).returncode == 0


class PodFailed(Exception):
    """A pod left with another status than 0; the message is what it printed."""


class Workflow:
    """One run of a template, with `parameters` in place of the template's defaults."""

    def __init__(self, template: dict[str, Any], name: str, folder: Path, **parameters: Any) -> None:
        spec = template["spec"]
        self._templates = {one["name"]: one for one in spec["templates"]}
        self._entry, self._exit, self._folder = spec["entrypoint"], spec["onExit"], folder
        defaults = {one["name"]: one["value"] for one in spec["arguments"]["parameters"]}
        given = {key.replace("_", "-"): json.dumps(value) for key, value in parameters.items()}
        self._values = {
            "workflow.name": name,
            "workflow.creationTimestamp": "2026-01-04T03:00:00Z",
            "retries": "0",
            **{f"workflow.parameters.{key}": value for key, value in (defaults | given).items()},
        }
        self.run_id = f"argo-{name}"
        self.pods: list[tuple[str, str]] = []
        """Template and output of every pod, in order."""

    def run(self) -> None:
        """Run to the end; PodFailed as soon as a pod fails."""
        self._run(self._entry, {})

    def run_exit_handler(self, status: str) -> None:
        """Run the exit handler of a workflow that ended with this status; PodFailed if it fails the workflow."""
        self._values["workflow.status"] = status
        handler = self._templates[self._exit]
        for group in handler["steps"]:
            for task in group:
                inner = self._templates[task["template"]]
                if "steps" in inner:  # the capture of Argo's error message, when the workflow did not succeed
                    continue
                self._run(task["template"], {})

    def output_of(self, template: str) -> str:
        """What the pods of a template printed."""
        return "".join(output for name, output in self.pods if name == template)

    def _run(self, name: str, inputs: Values) -> Values:
        template = self._templates[name]
        if "container" in template:
            return self._pod(template, inputs)
        if "steps" in template:
            tasks, kind = [task for group in template["steps"] for task in group], "steps"
        else:
            tasks, kind = template["dag"]["tasks"], "tasks"
        scope = dict(inputs)
        last: Values = {}
        for task in tasks:
            if not self._wanted(task.get("when"), scope):
                continue
            items = json.loads(self._filled(task["withParam"], scope)) if "withParam" in task else [None]
            for item in items:
                here = scope if item is None else {**scope, "item": str(item)}
                arguments = {
                    f"inputs.parameters.{one['name']}": self._filled(one["value"], here)
                    for one in task["arguments"]["parameters"]
                }
                last = self._run(task["template"], arguments)
                scope |= {f"{kind}.{task['name']}.outputs.parameters.{k}": v for k, v in last.items()}
        return last

    def _wanted(self, condition: str | None, scope: Values) -> bool:
        if condition is None:
            return True
        if switch := SWITCH.search(condition):
            return scope[f"tasks.{switch[1]}.outputs.parameters.switch-step"] == switch[2]
        left, right = self._filled(condition, scope).split("==")
        return left == right

    def _filled(self, text: str, scope: Values) -> str:
        values = {**self._values, **scope}

        def value(found: re.Match[str]) -> str:
            if encoded := BASE64.fullmatch(found[1]):
                return base64.b64encode(values[f"{encoded[1]}.{encoded[2]}"].encode()).decode()
            return values[found[1]]

        return re.sub(r"\{\{(.+?)\}\}", value, text)

    def _pod(self, template: dict[str, Any], inputs: Values) -> Values:
        disk = self._folder / f"pod-{len(self.pods)}-{template['name']}"
        (disk / "mnt" / "out").mkdir(parents=True)
        container = template["container"]
        *shell, command = container["command"]
        command = self._filled(command, inputs).replace("/tmp/", f"{disk}/")
        done = subprocess.run(
            [*PRIVATE_MNT, str(disk / "mnt"), *shell, command],
            cwd=disk,
            env=self._environment(container["env"], inputs, disk),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pods.append((template["name"], done.stdout))
        if done.returncode != 0:
            raise PodFailed(f"{template['name']} left with {done.returncode}:\n{done.stdout[-4000:]}")
        return {
            one["name"]: (disk / one["valueFrom"]["path"].lstrip("/")).read_text().strip()
            for one in template["outputs"].get("parameters", [])
        }

    def _environment(self, variables: list[dict[str, Any]], inputs: Values, disk: Path) -> dict[str, str]:
        """The image's variables, those of the Secret that the template names, and the template's own."""
        image = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(disk),
            "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",
        }
        secret = {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": os.environ["AWS_ENDPOINT_URL_S3"]}
        own = {one["name"]: self._filled(one["value"] or "from-the-pod", inputs) for one in variables}
        return {**image, **secret, **own}
