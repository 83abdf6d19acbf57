"""A report folder: complete, self-contained, and rebuilt from its own files."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdistill.errors import UsageError
from progdistill.report.build import build_report, rebuild_report
from progdistill.report.input import INPUT_FILE, ReportInput
from progdistill.report.page import report_page
from progdistill.report.tables import omissions
from tests.report.runs import example_run, example_stage


@pytest.fixture(scope="module")
def folder(built_report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(built_report.parent, tmp_path_factory.mktemp("copy") / "report"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_folder_holds_page_figures_and_pictures(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.html", "report.json", "fid_vs_steps.png", "samples.png", INPUT_FILE}


def test_the_pictures_are_large_enough_to_read(folder: Path) -> None:
    for name in ("fid_vs_steps.png", "samples.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) >= 600
            assert np.asarray(picture.convert("L")).std() > 10


def test_nothing_on_the_page_comes_from_elsewhere(page: str) -> None:
    addresses = [
        value
        for tag, attributes in _Tags(page).found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "data", "action") and tag != "use"
    ]
    assert addresses
    assert all(address and address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", page)


def test_every_picture_says_in_words_what_it_shows(page: str) -> None:
    tags = _Tags(page).found
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")
    assert sum(tag == "img" for tag, _ in tags) == 14 + 3 + 8 * 4


def test_links_lead_to_sections_that_exist(page: str) -> None:
    tags = _Tags(page).found
    anchors = {attributes.get("id") for _, attributes in tags}
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links
    assert all(link and link[1:] in anchors for link in links)


def test_the_distance_is_called_by_its_own_name(page: str) -> None:
    assert "Fréchet distance (digits classifier features)" in page
    assert "FID (" not in page
    assert "FID and KID: they are defined on Inception features" in page


def test_the_number_of_samples_stands_beside_the_distances(page: str) -> None:
    assert page.count("Fréchet distance (digits classifier features) of 1,000 samples") >= 3


def test_columns_of_samples_name_their_classes() -> None:
    names = tuple(f"class {number}" for number in range(10))
    page = report_page(example_run(class_names=names))
    header = "".join(f"<span>{name}</span>" for name in names)
    assert page.count(f'<div class="columns">{header}</div>') == 2 + 3


@pytest.mark.parametrize("mirrored", [False, True])
def test_neighbors_say_whether_mirrored_images_were_compared(mirrored: bool) -> None:
    run = example_run()
    last = run.checkpoints[-1]
    assert last.neighbors is not None
    found = last.neighbors.model_copy(update={"mirrored": mirrored})
    stages = (*run.checkpoints[:-1], last.model_copy(update={"neighbors": found}))
    page = report_page(run.model_copy(update={"checkpoints": stages}))
    assert ("each as stored or mirrored, whichever is nearer" in page) is mirrored


def test_ids_within_the_page_are_unique(page: str) -> None:
    ids = [attributes["id"] for _, attributes in _Tags(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_text_from_outside_cannot_become_markup() -> None:
    hostile = example_run(
        dataset="<script>alert(1)</script>", lineage="<img src=x>", configuration={"note": "</pre><script>"}
    )
    page = report_page(hostile)
    assert "<script" not in page
    assert "<img src=x>" not in page


def test_what_was_not_evaluated_is_said_with_its_reason() -> None:
    silent = example_stage(0).model_copy(
        update={
            "sampling_steps": 1024, "distance": None, "baseline_ddim": None, "baseline_ancestral": None,
            "samples": None, "baseline_ddim_samples": None, "not_evaluated_reason": "1024 is too many",
        }
    )  # fmt: skip
    run = example_run(checkpoints=(silent, *example_run().checkpoints))
    assert "1,024 steps: 1024 is too many" in report_page(run)


def test_a_run_of_which_nothing_was_evaluated_still_has_a_report(tmp_path: Path) -> None:
    bare = {"distance": None, "baseline_ddim": None, "baseline_ancestral": None, "samples": None}
    stage = example_stage(0).model_copy(update={**bare, "baseline_ddim_samples": None, "loss_curve": ()})
    page = build_report(example_run(checkpoints=(stage,), timings=None, lineage=""), tmp_path)
    assert "No distilled model was evaluated" in page.read_text("utf-8")


def test_a_report_is_made_again_from_its_input(folder: Path, page: str) -> None:
    (folder / "report.html").unlink()
    assert rebuild_report(folder).read_text("utf-8") == page


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        rebuild_report(tmp_path)


def test_the_input_of_another_version_is_refused_in_one_message(folder: Path, tmp_path: Path) -> None:
    older = (folder / INPUT_FILE).read_text().replace('"schema_version":2', '"schema_version":1')
    (tmp_path / INPUT_FILE).write_text(older)
    with pytest.raises(UsageError, match=r"input.json: schema_version = 1: .*version that wrote it"):
        rebuild_report(tmp_path)


def test_the_input_survives_its_own_json() -> None:
    run = example_run()
    assert ReportInput.model_validate_json(run.model_dump_json()) == run


def test_checkpoints_of_too_many_steps_share_one_sentence() -> None:
    bare = {"distance": None, "not_evaluated_reason": "too many"}
    slow = tuple(example_stage(0).model_copy(update={**bare, "sampling_steps": n}) for n in (1024, 512))
    configuration = {"evaluation": {"max_sampling_steps": 256}}
    run = example_run(checkpoints=(*slow, *example_run().checkpoints), configuration=configuration)
    assert omissions(run)[0] == "1,024, 512 steps: more than evaluation.max_sampling_steps = 256"


@pytest.mark.parametrize(("stored", "said"), [(0.0, False), (90.0, True)])
def test_time_that_earlier_runs_spent_is_a_line_of_its_own(stored: float, said: bool) -> None:
    run = example_run()
    assert run.timings is not None
    page = report_page(run.model_copy(update={"timings": run.timings.model_copy(update={"stored_seconds": stored})}))
    assert ("Taken from the store: 1m30s" in page) == said
