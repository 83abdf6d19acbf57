"""A store's folder in which somebody put links, FIFOs and long names: nothing outside is touched, nothing hangs."""

import os
import socket
from pathlib import Path

import pytest

from progdistill.errors import LostInvariantError, UsageError
from progdistill.registry.gc import find_garbage, remove_garbage
from progdistill.store.files import atomic_write
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store

DOCUMENT = "checkpoints/a/manifest.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, with a file."""
    other = tmp_path / "outside"
    other.mkdir()
    (other / "mine").write_text("precious")
    return other


def test_a_linked_scratch_folder_is_neither_used_nor_emptied(folder: Path, outside: Path) -> None:
    store = open_store(str(folder))
    store.write(DOCUMENT, b"{}")
    (folder / ".scratch").rmdir()
    (folder / ".scratch").symlink_to(outside)
    with pytest.raises(LostInvariantError, match="is a symbolic link"):
        remove_garbage(store, find_garbage(store))
    with pytest.raises(LostInvariantError, match="is a symbolic link"):
        store.write(DOCUMENT, b"{}")
    assert os.listdir(outside) == ["mine"]


def test_a_link_among_leftovers_is_removed_and_what_is_behind_it_stays(folder: Path, outside: Path) -> None:
    store = open_store(str(folder))
    (store.scratch() / "link").symlink_to(outside)
    assert store.sweep(store.now().replace(year=9999)) == 1
    assert os.listdir(store.scratch()) == [] and (outside / "mine").read_text() == "precious"


@pytest.mark.parametrize("linked", ["checkpoints", "checkpoints/a"])
def test_nothing_is_written_read_or_removed_through_a_linked_folder(folder: Path, outside: Path, linked: str) -> None:
    store = open_store(str(folder))
    store.write("other/key", b"{}")
    (folder / linked).parent.mkdir(parents=True, exist_ok=True)
    (folder / linked).symlink_to(outside)
    actions = (
        lambda: store.write(DOCUMENT, b"{}"),
        lambda: store.put_if_absent(DOCUMENT, b"{}"),
        lambda: store.read(DOCUMENT),
        lambda: store.delete(DOCUMENT),
        lambda: store.upload(outside / "mine", lambda _: DOCUMENT),
    )
    for action in actions:
        with pytest.raises(LostInvariantError, match="is a symbolic link"):
            action()
    assert os.listdir(outside) == ["mine"]


def test_a_prefix_that_leads_outside_lists_nothing(folder: Path, outside: Path) -> None:
    store = open_store(str(folder))
    store.write("runs/Flow/1/4.json", b"{}")
    assert list(store.list("runs/../../outside/")) == []


@pytest.mark.parametrize("kind", ["fifo", "link", "socket", "folder"])
def test_what_is_no_file_is_refused_by_name_at_once(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(folder))
    path = folder / DOCUMENT
    path.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(path.parent)  # the name of a socket is short
        socket.socket(socket.AF_UNIX).bind(path.name)
    for action in (lambda: store.read(DOCUMENT), lambda: store.put_if_absent(DOCUMENT, b"{}")):
        with pytest.raises(LostInvariantError, match=r"manifest\.json"):
            action()


def test_a_link_in_the_place_of_the_lock_is_not_followed(folder: Path, outside: Path) -> None:
    store = open_store(str(folder))
    store.write("a", b"1")
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").symlink_to(outside / "new")
    found = store.read_versioned("a")
    assert found is not None
    with pytest.raises(LostInvariantError, match="symbolic link"):
        store.compare_and_swap("a", b"2", found.version)
    assert os.listdir(outside) == ["mine"]


def test_a_link_that_is_named_like_a_draft_is_replaced(tmp_path: Path, outside: Path) -> None:
    (tmp_path / ".page.html.part").symlink_to(outside / "mine")
    atomic_write(tmp_path / "page.html", b"new")
    assert (tmp_path / "page.html").read_bytes() == b"new" and not (tmp_path / "page.html").is_symlink()
    assert (outside / "mine").read_text() == "precious"


def test_a_name_that_is_too_long_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        open_store(f"{tmp_path}/{'a' * 300}")
    with pytest.raises(UsageError, match="cannot name an object"):
        open_store(str(tmp_path / "s")).read(f"aliases/{'a' * 300}.json")


def test_a_blob_that_is_a_fifo_is_refused(folder: Path) -> None:
    store = open_store(str(folder))
    digest = store.upload(_file(folder.parent), blob_key)
    path = folder / blob_key(digest.sha256)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(LostInvariantError, match="is not a regular file"):
        store.download(blob_key(digest.sha256), digest)


def _file(folder: Path) -> Path:
    path = folder / "file"
    path.write_bytes(b"bytes")
    return path
