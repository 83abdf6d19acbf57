"""Selectors, held against "Labels and Selectors" and "Field Selectors" in the Kubernetes documentation."""

import pytest

from tests.kubernetes_api.clients import Client
from tests.kubernetes_api.manifests import config_map
from tests.kubernetes_api.refusals import refusal


@pytest.fixture
def labeled(client: Client) -> Client:
    for name, labels in {
        "web": {"app": "web", "tier": "front"},
        "api": {"app": "api", "tier": "back"},
        "bare": {},
    }.items():
        client.core.create_namespaced_config_map("default", config_map(name, labels))
    return client


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=web", {"web"}),
        ("app==web", {"web"}),
        ("app!=web", {"api", "bare"}),
        ("app", {"web", "api"}),
        ("!app", {"bare"}),
        ("app in (web, api)", {"web", "api"}),
        ("app in (web, api),tier=back", {"api"}),
        ("app notin (web)", {"api", "bare"}),
        ("app=none", set()),
        ("", {"web", "api", "bare"}),
    ],
)
def test_a_label_selector_selects(labeled: Client, selector: str, names: set[str]) -> None:
    """Of objects without the label, != and notin select all ("Set-based requirement")."""
    found = labeled.core.list_namespaced_config_map("default", label_selector=selector).items
    assert {item.metadata.name for item in found} == names


def test_a_field_selector_selects(labeled: Client) -> None:
    found = labeled.core.list_namespaced_config_map("default", field_selector="metadata.name=api").items
    assert [item.metadata.name for item in found] == ["api"]
    found = labeled.core.list_namespaced_config_map("default", field_selector="metadata.name!=api").items
    assert {item.metadata.name for item in found} == {"web", "bare"}


def test_other_fields_cannot_be_selected_by(labeled: Client) -> None:
    """ "Using unsupported field selectors produces an error"."""
    status = refusal(lambda: labeled.core.list_namespaced_config_map("default", field_selector="data.key=x"))
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert status["message"].endswith("field label not supported: data.key")


def test_deletecollection_deletes_what_is_selected(labeled: Client) -> None:
    labeled.core.delete_collection_namespaced_config_map("default", label_selector="app")
    left = labeled.core.list_namespaced_config_map("default").items
    assert [item.metadata.name for item in left] == ["bare"]
