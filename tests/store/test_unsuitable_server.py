"""A real S3 server without ETags, which conditional writes need, is refused before it can lose a race."""

from pathlib import Path

import pytest

from progdistill.errors import UsageError
from progdistill.store.open import mark_layout, open_store
from tests.store.go_servers import running_go_server
from tests.store.s3_server import uri_at

pytestmark = pytest.mark.slow


def test_a_gateway_that_keeps_no_etags_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_go_server("versitygw-nometa", tmp_path) as endpoint:
        store = open_store(uri_at(endpoint, tmp_path, monkeypatch))
        for check in (store.check_writable, lambda: mark_layout(store)):
            with pytest.raises(UsageError, match=r"does not answer as S3 does \(KeyError: 'ETag'\)"):
                check()
        assert list(store.list("")) == []
