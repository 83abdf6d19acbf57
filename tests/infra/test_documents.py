"""The commands in the guides are valid: files, options, targets, parameters, objects, shell syntax."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.config.options import RUN_OPTIONS
from tests.infra.policies import template
from tests.infra.tools import INFRA, KUBERNETES, ROOT, objects, run, tool

GUIDES = ["production", "tpu", "disaster_recovery", "security", "costs"]
PAGES = [*(ROOT / "docs" / f"{name}.md" for name in GUIDES), INFRA / "README.md", INFRA / "metaflow" / "README.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[list[str]]:
    """Every command of every guide, split into words; what stands before `progdistill` is dropped."""
    for page in PAGES:
        indented = "\n".join(re.findall(r"^    (.*)$", page.read_text(), re.MULTILINE))
        for block in [*_blocks(page, "sh"), indented if page.name == "README.md" else ""]:
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield [words[0].removeprefix(".venv/bin/"), *words[1:]]
        for inline in re.findall(r"`(progdistill [^`]+)`", page.read_text()):
            yield shlex.split(inline)


def _of(program: str) -> list[list[str]]:
    found = [words for words in _commands() if words[0] == program]
    assert found, f"no guide uses {program}"
    return found


def _option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@each_page
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@each_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"`((?:infra|docs|tests|progdistill)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


@each_page
def test_shellcheck_reads_every_block(page: Path) -> None:
    for block in _blocks(page, "sh"):
        # SC2155 and the like are style of scripts; a guide's placeholders are read as they stand.
        done = run(tool("shellcheck"), "--shell=bash", "--severity=warning", "-", input=block)
        assert done.returncode == 0, done.stdout


@each_page
def test_every_toml_block_parses(page: Path) -> None:
    for block in _blocks(page, "toml"):
        tomllib.loads(block)


@cache
def _help(*verb: str) -> str:
    with redirect_stdout(StringIO()) as said, pytest.raises(SystemExit):
        main([*verb, "--help"])
    return said.getvalue()


def test_every_verb_and_option_of_progdistill_exists() -> None:
    for words in _of("progdistill"):
        depth = 2 if words[1] in ("checkpoints", "data") and len(words) > 2 else 1
        verb = tuple(words[1 : 1 + depth])
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", _help(*verb))), " ".join(words)


def test_every_option_of_a_run_exists() -> None:
    known = {f"--{option.name}" for option in RUN_OPTIONS}
    runs = [words for words in _of("python") if words[1] == "flows/distill_flow.py"]
    for words in runs:
        if "run" in words:
            after = words[words.index("run") + 1 :]
            assert {word for word in after if word.startswith("--")} <= known, " ".join(words)
    deployed = [words for words in runs if "argo-workflows" in words]
    assert deployed and all(Path(_option(words, "deployment")).name == "deployment.toml" for words in deployed)


def test_every_folder_that_is_applied_renders() -> None:
    folders = {_option(words, "-k") for words in _of("kubectl") if "-k" in words}
    assert folders
    for folder in folders:
        name = folder.split("/kubernetes/")[1]
        assert objects(name)
    files = {_option(words, "-f") for words in _of("kubectl") if "-f" in words}
    for name in (file.removeprefix("deploy/kubernetes/") for file in files if "://" not in file):
        assert (KUBERNETES / name).exists()


def test_every_object_that_is_named_exists() -> None:
    there = {
        f"{one['kind'].lower()}/{one['metadata']['name']}"
        for folder in ("overlays/gpu", "metaflow")
        for one in objects(folder)
    }
    named = {word for words in _of("kubectl") for word in words if re.match("(deployment|service)/", word)}
    named |= {word.removeprefix("--from=") for words in _of("kubectl") for word in words if "--from=" in word}
    assert {"cronjob/doctor", "deployment/metadata", "service/ui"} <= named
    installed = {"deployment/kueue-controller-manager", "deployment/workflow-controller"}  # by others' manifests
    assert named - installed <= there


def test_every_stack_gets_parameters_that_its_template_has_and_needs() -> None:
    stacks = [words for words in _of("aws") if "--template-file" in words]
    assert len(stacks) == 2
    for words in stacks:
        parameters = template(Path(_option(words, "--template-file")).name)["Parameters"]
        given = {word.partition("=")[0] for word in words[words.index("--parameter-overrides") + 1 :]}
        needed = {name for name, parameter in parameters.items() if "Default" not in parameter}
        assert needed <= given <= set(parameters)


def test_every_output_of_a_stack_that_is_spoken_of_exists() -> None:
    outputs = template("cluster.yaml")["Outputs"]
    assert {"FileSystemId", "DatabaseHost", "DatabaseSecret", "ImageRepository"} <= set(outputs)


def test_every_image_is_built_from_a_target_and_arguments_that_exist() -> None:
    for words in _of("docker"):
        if words[1] != "build":
            continue
        text = (ROOT / _option(words, "-f")).read_text()
        if "--target" in words:
            assert re.search(rf"^FROM \S+ AS {_option(words, '--target')}$", text, re.MULTILINE)
        arguments = [after for before, after in pairwise(words) if before == "--build-arg"]
        for argument in arguments:
            assert f"ARG {argument.partition('=')[0]}" in text
        assert (ROOT / words[-1]).is_dir()


def test_fill_in_is_called_with_what_it_knows(tmp_path: Path) -> None:
    for words in _of("infra/fill_in.sh"):
        done = run(INFRA / "fill_in.sh", tmp_path / "deploy", *words[2:])
        assert done.returncode == 0, done.stderr


def test_the_keys_of_metaflows_secret_are_what_its_services_read() -> None:
    keys = {
        re.split("[=]", word)[1]
        for words in _of("kubectl")
        for word in words
        if word.startswith(("--from-literal=", "--from-file="))
    }
    assert keys == {"MF_METADATA_DB_HOST", "MF_METADATA_DB_USER", "MF_METADATA_DB_PSWD"}
