"""The documentation site: its reference is complete, its commands are real, and it builds without a warning."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from progdistill.cli.main import make_parser
from progdistill.config.options import RUN_OPTIONS, resolve_options
from progdistill.config.presets import PRESETS
from progdistill.config.settings import settings_from
from progdistill.models_base import leaves

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "infra/README.md"])
METAFLOWS_OPTIONS = ("--tag", "--with", "--max-workers", "--run-id-file")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The module that makes the reference pages."""
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs/site/reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(reference: ModuleType) -> dict[str, str]:
    """The generated pages by their path."""
    return dict(reference.pages())


def test_every_run_option_is_on_the_page_of_commands(made: dict[str, str]) -> None:
    page = made["reference/commands.md"]
    for option in RUN_OPTIONS:
        assert f"`--{option.name} " in page, option.name
    for verb in ("watch", "checkpoints verify", "data prepare", "completion"):
        assert f"## progdistill {verb}\n" in page


def test_every_setting_has_a_row_with_its_meaning(made: dict[str, str]) -> None:
    page, _, _ = made["reference/settings.md"].partition("## What the presets")
    rows = dict(re.findall(r"^\| `([\w.]+)` \|(.*)\|$", page, re.M))
    sections = PRESETS["digits"]._asdict()
    del sections["ladder"]
    preset = {name: value.model_dump(mode="json") for name, value in sections.items()}
    for path, _ in leaves(preset):
        assert path in rows or path.rpartition(".")[0] in rows, path
    without = [path for path, row in rows.items() if not row.split("|")[2].strip()]
    assert without == []


def test_every_schema_is_valid_json_and_named_on_the_page(made: dict[str, str]) -> None:
    page = made["reference/records.md"]
    schemas = {name: text for name, text in made.items() if name.endswith(".json")}
    assert {"CheckpointManifest", "Measurement", "ReportInput", "JobRequest"} <= {Path(name).stem for name in schemas}
    for name, text in schemas.items():
        assert json.loads(text)["type"] == "object"
        assert f"](schemas/{Path(name).name})" in page


def test_exit_statuses_are_those_of_the_exceptions(made: dict[str, str]) -> None:
    page = made["reference/exit_statuses.md"]
    for row in ("| 2 | `UsageError`", "| 130 | `Interrupted`", "| 75 | `PeerLostError`"):
        assert row in page


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of ours in a block of any page; a synopsis with brackets is none."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.M | re.S) + re.findall(r"(?m)^ {4,}(\S.*)$", text)
        for line in map(str.strip, "\n".join(blocks).replace("\\\n", " ").splitlines()):
            if re.match(r"(\.venv/bin/)?progdistill ", line) and not re.search(r"[\[…]| {3,}[a-z]", line):
                yield page.name, shlex.split(line, comments=True)


def test_commands_on_every_page_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    parser, found = make_parser(), list(commands())
    assert len(found) > 60
    for page, words in found:
        try:
            args, unknown = parser.parse_known_args(words[1:])
        except SystemExit:
            raise AssertionError(f"{page}: {shlex.join(words)}\n{capsys.readouterr().err}") from None
        options = [word for word in unknown if word.startswith("--")]
        assert all(option in METAFLOWS_OPTIONS for option in options), (page, words)
        assert not unknown or getattr(args, "takes_unknown", False), (page, words)


def test_every_progdistill_toml_on_a_page_has_options_and_settings_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [page.read_text(encoding="utf-8") for page in PAGES if page.name != "schedules.md"]
    files = [file for text in texts for file in re.findall(r"```toml\n(.*?)```", text, re.S)]
    files = [file for file in files if "[options]" not in file]  # That is a deployment.toml.
    assert len(files) >= 3
    for file in files:
        (tmp_path / "progdistill.toml").write_text(file)
        assert settings_from(resolve_options({})).preset == "digits", file


def test_the_settings_said_to_be_ours_are_those_of_the_preset() -> None:
    text = (ROOT / "docs/differences.md").read_text().split("## The settings")[1]
    ours = {
        row[0].strip(): row[-1].strip() for line in text.splitlines() if len(row := line.strip("|").split("|")) == 4
    }
    base, distill = PRESETS["cifar10"].base, PRESETS["cifar10"].distill
    assert (base.learning_rate, ours["learning rate, base model, CIFAR-10"]) == (3e-4, "3·10⁻⁴")
    assert (distill.learning_rate, ours["learning rate, distillation, CIFAR-10"]) == (5e-5, "5·10⁻⁵")
    assert ours["weight decay in distillation"] == f"{distill.weight_decay:g}"
    assert ours["warm-up of the base model"] == f"{base.warmup_updates:,} updates"
    assert distill.updates_at_steps == {2: 100_000, 1: 100_000}
    assert ours["updates of the stages to 2 and 1 steps"] == "100,000"
    assert (distill.ema_decay, ours["moving average in distillation"]) == (None, "none")


def test_environment_variables_on_the_page_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in ROOT.glob("progdistill/**/*.py"))
    code += "".join(path.read_text() for path in ROOT.glob("progdistill/**/*.j2"))
    page = (ROOT / "docs/reference/environment.md").read_text()
    pattern = r"\bPROGDISTILL_[A-Z_]+\b"
    assert set(re.findall(pattern, code)) == set(re.findall(pattern, page))


def test_every_page_of_the_repository_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert len(listed) == len(set(listed))
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    assert pages <= set(listed)


SCHEMAS = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/[bi]*.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "dependabot": ".github/dependabot.yml",
    "citation-file-format": "CITATION.cff",
}


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "files"), SCHEMAS.items())
def test_project_files_are_those_that_github_reads(schema: str, files: str) -> None:
    paths = [str(path) for path in sorted(ROOT.glob(files))]
    assert paths
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *paths]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DistillFlow" in (tmp_path / "site/reference/commands/index.html").read_text()
