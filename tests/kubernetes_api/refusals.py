"""The Status body of a refused request."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException


def refusal(request: Callable[[], object]) -> dict[str, Any]:
    """Run a request that must be refused; the Status it is refused with."""
    with pytest.raises(ApiException) as caught:
        request()
    status: dict[str, Any] = json.loads(caught.value.body)
    assert status["kind"] == "Status" and status["code"] == caught.value.status
    return status
