"""The tree of teachers and students as text, as a page, and as OpenLineage events."""

import json
import re
import uuid
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from progdistill.errors import UsageError
from progdistill.registry.aliases import move_alias
from progdistill.registry.checkpoint import CheckpointManifest, TrainingFigures, publish_checkpoint
from progdistill.registry.evaluations import ContactSheet
from progdistill.registry.lineage import draw, lineage_tree
from progdistill.registry.openlineage import run_events
from progdistill.registry.runs import record_run_checkpoint
from progdistill.report.lineage_page import lineage_page
from progdistill.store.base import Store
from progdistill.store.layout import blob_key
from tests.registry.samples import description, measure, provenance, publish_base, publish_student, weights_file
from tests.report.browser import chromium


@pytest.fixture
def family(local_store: Store, tmp_path: Path) -> dict[str, CheckpointManifest]:
    """Run 1 goes from a base to 4 and 2 steps; run 2 branches off at 4 steps."""
    base = publish_base(local_store, tmp_path)
    four = publish_student(local_store, tmp_path, base, steps=4)
    two = publish_student(local_store, tmp_path, four, steps=2)
    branch = publish_student(local_store, tmp_path, four, steps=1, seed=2)
    for run, steps, manifest in (("1", 4, four), ("1", 2, two), ("2", 4, four), ("2", 1, branch)):
        record_run_checkpoint(local_store, "DistillFlow", run, steps, manifest.id)
    return {"base": base, "four": four, "two": two, "branch": branch}


def test_the_tree_spans_runs_and_branches(local_store: Store, family: dict[str, CheckpointManifest]) -> None:
    move_alias(local_store, "best", family["two"].id, "ann@lab")
    short = {name: manifest.id[:12] for name, manifest in family.items()}
    assert list(draw(lineage_tree(local_store), highlighted=family["four"].id)) == [
        f"● {short['base']}  base  any steps  digits",
        f"● {short['four']}  student  4 steps  digits  DistillFlow/1, DistillFlow/2  ◀",
        f"├─● {short['branch']}  student  1 step  digits  DistillFlow/2",
        f"● {short['two']}  student  2 steps  digits  [best]  DistillFlow/1",
    ]


def test_a_reference_chooses_its_tree(
    local_store: Store, family: dict[str, CheckpointManifest], tmp_path: Path
) -> None:
    other = publish_base(local_store, tmp_path, seed=9)
    assert len(lineage_tree(local_store)) == 2
    (tree,) = lineage_tree(local_store, "DistillFlow/2/1")
    assert tree.manifest == family["base"]
    (alone,) = lineage_tree(local_store, other.id)
    assert [node.manifest for node in alone.walk()] == [other]


def test_a_student_is_shown_with_its_distance_at_its_own_steps(
    local_store: Store, family: dict[str, CheckpointManifest]
) -> None:
    measure(local_store, family["two"], 5.0, steps=16)
    measure(local_store, family["two"], 8.25, steps=2)
    lines = list(draw(lineage_tree(local_store)))
    assert lines[-1].endswith("fd 8.25")


def test_a_distance_is_that_of_reports_whatever_else_was_measured(
    local_store: Store, family: dict[str, CheckpointManifest]
) -> None:
    """DDIM at a base model's most steps: no smaller figure of fewer steps or samples, or guided, is shown."""
    base = family["base"]
    measure(local_store, base, 9.0, steps=8, sampler="ddim", samples=100)
    measure(local_store, base, 6.0, steps=8, sampler="ancestral", samples=100)
    measure(local_store, base, 5.0, steps=4, sampler="ddim", samples=100)
    measure(local_store, base, 4.0, steps=8, sampler="ddim", samples=10)
    measure(local_store, base, 3.0, steps=8, sampler="ddim", samples=100, guidance_scale=2.0)
    first = next(draw(lineage_tree(local_store)))
    assert first.endswith("fd 9")


def test_a_chain_of_fourteen_checkpoints_stays_at_the_left_margin(local_store: Store, tmp_path: Path) -> None:
    teacher = publish_base(local_store, tmp_path)
    for exponent in range(13):
        teacher = publish_student(local_store, tmp_path, teacher, steps=4096 >> exponent)
    assert all(line.startswith("● ") for line in draw(lineage_tree(local_store)))


class References(HTMLParser):
    """Collects everything a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_needs_no_network(local_store: Store, family: dict[str, CheckpointManifest]) -> None:
    page = lineage_page(local_store, lineage_tree(local_store))
    references = References()
    references.feed(page)
    assert references.loaded == []
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|url\((?!\$)", page)


def facts_in(page: str) -> dict[str, object]:
    """The facts embedded in a page."""
    found = re.search(r'<script id="lineage" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    facts: dict[str, object] = json.loads(found[1])
    return facts


def test_the_page_holds_every_manifest_and_a_thumbnail(
    local_store: Store, family: dict[str, CheckpointManifest], tmp_path: Path
) -> None:
    picture = tmp_path / "strip.png"
    Image.new("L", (8, 32), 128).save(picture)
    blob = local_store.upload(picture, blob_key)
    shown = ContactSheet(file=blob, images=4, labels=None)
    measure(local_store, family["two"], 8.0, steps=2, shown=shown)
    page = lineage_page(local_store, lineage_tree(local_store), highlighted=family["two"].id)
    assert all(manifest.id in page for manifest in family.values())
    assert facts_in(page)["highlighted"] == family["two"].id
    assert page.count("data:image/png;base64,") == 1


def test_in_a_browser_the_page_zooms_and_shows_a_checkpoints_manifest_on_a_click(
    local_store: Store, family: dict[str, CheckpointManifest], tmp_path: Path
) -> None:
    picture = tmp_path / "strip.png"
    Image.new("L", (8, 32), 128).save(picture)
    blob = local_store.upload(picture, blob_key)
    shown = ContactSheet(file=blob, images=4, labels=None)
    measure(local_store, family["two"], 8.0, steps=2, shown=shown)
    path = tmp_path / "lineage.html"
    path.write_text(lineage_page(local_store, lineage_tree(local_store)), encoding="utf-8")
    with chromium(tmp_path / "profile") as page:
        page.open(path, width=1200)
        assert page.evaluate("document.querySelectorAll('.node').length") == 4
        assert page.evaluate("document.querySelectorAll('.node image').length") == 1
        scale = "document.getElementById('view').getCTM().a"
        before = page.evaluate(scale)
        page.evaluate("document.getElementById('in').click()")
        assert page.evaluate(scale) > before
        page.evaluate("document.getElementById('fit').click()")
        assert page.evaluate(scale) == pytest.approx(before)
        chosen = f"[aria-label*='{family['two'].id[:12]}']"
        page.evaluate(f"document.querySelector(\"{chosen}\").dispatchEvent(new MouseEvent('click'))")
        details = page.evaluate("document.getElementById('details').innerText")
        assert all(fact in details for fact in (family["two"].id, "2 steps", "8 (fd)", '"weights"'))
        assert page.evaluate("document.querySelectorAll('#details .sheet span').length") == 4
        edges = ("document.querySelector('.chosen').getBoundingClientRect().right", "graph.clientWidth")
        assert page.evaluate(edges[0]) < page.evaluate(edges[1])
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


def test_no_fact_can_break_out_of_the_page(local_store: Store, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>"
    publish_checkpoint(local_store, weights_file(tmp_path), description(), provenance(dataset_name=hostile))
    page = lineage_page(local_store, lineage_tree(local_store))
    assert hostile not in page
    assert hostile in json.dumps(facts_in(page))


def test_an_empty_store_gives_an_empty_page(local_store: Store) -> None:
    assert facts_in(lineage_page(local_store, []))["roots"] == []


def test_a_runs_events_name_dataset_teacher_and_student(
    local_store: Store, family: dict[str, CheckpointManifest]
) -> None:
    events = run_events(local_store, "DistillFlow/1")
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        (f"DistillFlow.{steps}_steps", kind) for steps in (4, 2) for kind in ("START", "COMPLETE")
    ]
    for start, end in (events[:2], events[2:]):
        assert start["run"] == end["run"] and start["inputs"] == end["inputs"] and start["outputs"] == []
        assert datetime.fromisoformat(start["eventTime"]) <= datetime.fromisoformat(end["eventTime"])
    assert [item["name"] for item in events[3]["inputs"]] == ["digits", f"checkpoints/{family['four'].id}"]
    (output,) = events[3]["outputs"]
    assert output["name"] == f"checkpoints/{family['two'].id}"
    assert output["facets"]["version"]["datasetVersion"] == family["two"].id
    assert len({event["run"]["facets"]["parent"]["run"]["runId"] for event in events}) == 1
    assert run_events(local_store, "DistillFlow/1") == events


def test_events_have_every_field_that_openlineage_requires(
    local_store: Store, family: dict[str, CheckpointManifest]
) -> None:
    """What OpenLineage.json 2-0-2 and the two facets require of names, forms and types."""
    for event in run_events(local_store, "DistillFlow/1"):
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        parent = event["run"]["facets"]["parent"]
        for run in (event["run"], parent["run"]):
            assert str(uuid.UUID(run["runId"])) == run["runId"]
        for named in (event["job"], parent["job"], *event["inputs"], *event["outputs"]):
            assert named["namespace"] and named["name"]
        datasets = [*event["inputs"], *event["outputs"]]
        facets = [parent, *(facet for one in datasets for facet in one["facets"].values())]
        assert all(isinstance(one["facets"]["version"]["datasetVersion"], str) for one in datasets)
        for address in [event["producer"], event["schemaURL"]] + [
            facet[field] for facet in facets for field in ("_producer", "_schemaURL")
        ]:
            assert urlsplit(address).scheme


def test_a_training_started_as_long_before_its_end_as_it_took(local_store: Store, tmp_path: Path) -> None:
    figures = TrainingFigures(updates=9, images=90, seconds=90, images_per_second=1, final_loss=None)
    made = provenance(figures=figures)
    model = publish_checkpoint(local_store, weights_file(tmp_path), description(), made)
    record_run_checkpoint(local_store, "DistillFlow", "1", 64, model.id)
    start, end = (datetime.fromisoformat(e["eventTime"]) for e in run_events(local_store, "DistillFlow/1"))
    assert end == made.created_at and end - start == timedelta(seconds=90)


def test_an_unknown_run_has_no_events(local_store: Store) -> None:
    with pytest.raises(UsageError, match="Flow/run id"):
        run_events(local_store, "DistillFlow/9")
