"""`progdistill doctor`: what this machine, store, cluster and datasets can do, and what is missing."""

import argparse
import os
import platform
from typing import TYPE_CHECKING, Any

from progdistill.cli.common import Verbs, add_verb, print_json, store_of, store_uri
from progdistill.config.options import DEFAULT_STORE
from progdistill.config.presets import PRESETS
from progdistill.errors import ProgdistillError, UsageError

if TYPE_CHECKING:
    import torch

    from progdistill.training.accelerators import Accelerators


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    text = "check this machine, the store, the cluster and the datasets, and how to get what is missing"
    add_verb(verbs, "doctor", _doctor, text)


def _doctor(args: argparse.Namespace) -> int:
    import torch

    from progdistill.training.accelerators import accelerators_here
    from progdistill.training.devices import choose_device

    store = _store(args)
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "accelerators": accelerators_facts(accelerators_here(), choose_device("auto", local_rank=0)),
        "store": store,
        "cluster": cluster_facts(),
        "datasets": {name: _dataset(name) for name in PRESETS},
    }
    if args.json:
        print_json(facts)
    else:
        for name, value in facts.items():
            lines = [f"\n  {key}: {fact}" for key, fact in value.items()] if isinstance(value, dict) else [f" {value}"]
            print(f"{name}:{''.join(lines)}")
    return 0 if store["writable"] == "yes" else 1


def accelerators_facts(here: "Accelerators", chosen: "torch.device") -> str:
    """The accelerators that this machine has, and whether torch computes on them."""
    from progdistill.training.devices import device_name

    if chosen.type != "cpu":
        return f"{max(here.number, 1)} × {device_name(chosen)}"
    if here.number == 0:
        return "none: jobs run on the CPU"
    tpu, gpu = "pip install torch-tpu==0.2.0", "install torch's build for them, and a driver"
    advice = tpu if here.kind == "tpu" else gpu
    return f"{here.number} of kind {here.kind}, which torch does not find: {advice}"


def _store(args: argparse.Namespace) -> dict[str, Any]:
    uri = args.store
    try:
        uri = store_uri(args) or DEFAULT_STORE
        store = store_of(args, may_be_new=True)
        store.check_writable()
    except UsageError as error:
        return {"uri": uri, "writable": f"no: {error}"}
    except ProgdistillError as error:
        return {"uri": uri, "writable": f"no: {error}; fix that or choose another --store"}
    return {"uri": store.uri, "writable": "yes", "free_bytes": store.free_bytes()}


def cluster_facts() -> dict[str, str]:
    """Whether jobs could run in a cluster, by the defaults of `progdistill.toml`."""
    from progdistill.config.options import resolve_options
    from progdistill.config.settings import settings_from
    from progdistill.jobs.kubernetes.api import connect
    from progdistill.jobs.kubernetes.preflight import missing_permissions

    facts = {}
    try:
        cluster = settings_from(resolve_options({})).cluster
        facts["image"] = cluster.image or "not set: --set cluster.image=…, or in progdistill.toml"
        api = connect(cluster.model_copy(update={"api_timeout_seconds": 0.5}))
        missing = missing_permissions(api)
    except ProgdistillError as error:
        return {**facts, "reachable": f"no: {error}"}
    allowed = "all that a run needs" if not missing else f"missing: {', '.join(map(str, missing))}"
    return {**facts, "reachable": f"yes, {api.server}, namespace {api.namespace}", "permissions": allowed}


def _dataset(name: str) -> str:
    from progdistill.data.dataset import default_data_root, find_dataset

    try:
        return f"ready, {sum(find_dataset(name, default_data_root()).splits.values()):,} images"
    except ProgdistillError as error:
        return f"missing: {error}"
