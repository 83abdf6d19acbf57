"""A real S3 server that ignores conditional writes is refused, before it can lose a race."""

from pathlib import Path

import pytest

from progdistill.errors import UsageError
from progdistill.store.open import mark_layout, open_store
from tests.store.go_servers import running_go_server
from tests.store.s3_server import uri_at

pytestmark = pytest.mark.slow


def test_a_gateway_without_metadata_is_refused_with_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_go_server("versitygw-nometa", tmp_path) as endpoint:
        store = open_store(uri_at(endpoint, tmp_path, monkeypatch))
        for check in (store.check_writable, lambda: mark_layout(store)):
            with pytest.raises(UsageError, match=r"lacks conditional writes \(If-None-Match: \*\)"):
                check()
        assert list(store.list("")) == []
