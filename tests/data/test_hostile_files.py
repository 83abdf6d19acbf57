"""Files that lie, expand, or are made to harm: each ends in one message, in little time and memory."""

import bz2
import gzip
import io
import os
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.lib import format as npy

from progdistill.data.importers import restricted_pickle, tables
from progdistill.data.importers.archives import iterate_archive
from progdistill.data.importers.lsun import LsunSource
from progdistill.data.importers.registry import open_source
from progdistill.data.importers.restricted_pickle import load_restricted
from progdistill.data.importers.unused import Unused
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Source, UnreadableImageError
from progdistill.errors import UsageError
from tests.data.published import cifar10_files, encoded, lsun_database, random_images, write_tar

IMAGES, LABELS = random_images(8, 8, classes=2)
FILES = [encoded(image) for image in IMAGES]
AS_THEY_ARE = Preprocessing(image_size=None)


def opened(path: Path, name: str = "mine") -> Source:
    return open_source(name, path, AS_THEY_ARE, horizontal_flip_safe=True, unverified=True)


def read(path: Path, name: str = "mine") -> int:
    """Open a source and decode all of its images; return how many cannot be read."""
    unreadable = 0
    for image in opened(path, name).read("train"):
        assert callable(image.pixels)
        try:
            image.pixels()
        except UnreadableImageError:
            unreadable += 1
    return unreadable


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    """The most that a test may allocate beyond what the process has: 3 GiB, of which Arrow reserves one."""
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + 3 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


# Arrays


def header(text: str) -> bytes:
    """The start of an .npy file whose header is this text."""
    padded = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8, 8",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-2, 8, 8), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999999, 8, 8), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8000000, 8000000), }",
        "{'descr': '<U99999999999', 'fortran_order': False, 'shape': (2, 8, 8), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2, 8, 8), }",
        "{'descr': ('|u1', (9,) * 9), 'fortran_order': False, 'shape': (2, 8, 8), }",
        "(" * 100,
        "'''",
        "\0",
        "{[]: 1}",
    ],
)
def test_headers_of_arrays_that_lie(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.npy").write_bytes(header(text) + bytes(128))
    with pytest.raises(UsageError, match="x.npy"):
        opened(tmp_path / "x.npy")


@pytest.mark.parametrize("start", [b"\x93NUMPY", b"\x93NUMPY\2\0\xff\xff\xff\xff", b"\x93NUMPY\1\0\xff\xff{", b"PK"])
def test_arrays_that_are_none(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(start)
    with pytest.raises(UsageError, match="x.npy is truncated or damaged"):
        opened(tmp_path / "x.npy")


def test_labels_that_would_take_gigabytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    count = 50_000_001
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((count, 1, 1), np.uint8), labels=np.zeros(count, np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < 200_000
    with pytest.raises(UsageError, match="labels, more than 50,000,000"):
        opened(tmp_path / "x.npz")


def test_an_array_larger_than_its_member_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES)
    data = (tmp_path / "x.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("images.npy", header("{'descr': '|u1', 'fortran_order': False, 'shape': (900, 900, 900), }"))
    assert data
    with pytest.raises(UsageError, match="y.npz is truncated or damaged .it ends too early: "):
        opened(tmp_path / "y.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for _ in range(2):
            with archive.open("images.npy", "w") as file:
                npy.write_array(file, IMAGES)
    with pytest.raises(UsageError, match="several arrays of one name .images.npy"):
        opened(tmp_path / "x.npz")


# Images


def png(width: int, height: int) -> bytes:
    """A gray PNG of zeros that declares its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    )


def test_huge_images_are_not_decoded() -> None:
    with pytest.raises(UnreadableImageError, match="could be decompression bomb"):
        decode_image(png(30_000, 30_000), AS_THEY_ARE)
    with pytest.raises(UnreadableImageError, match="11,000×10,000 pixels, more than 100,000,000: reduce it"):
        decode_image(png(11_000, 10_000), AS_THEY_ARE)


# Archives


def block(name: str, size: bytes = b"%011o\0" % 0, kind: bytes = b"0", link: str = "") -> bytes:
    """A header of a tar."""
    fields = [(name.encode(), 100), (b"0000644\0", 8), (b"0000000\0", 8), (b"0000000\0", 8), (size, 12)]
    fields += [(b"%011o\0" % 0, 12), (b" " * 8, 8), (kind, 1), (link.encode(), 100), (b"ustar\x0000", 8)]
    data = b"".join(value.ljust(width, b"\0") for value, width in fields).ljust(512, b"\0")
    return data[:148] + b"%06o\0 " % sum(data) + data[156:]


def pax(**values: str) -> bytes:
    """An extended header."""
    records = b""
    for key, value in values.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + len(str(len(line) + 2))
        records += str(length).encode() + line
    return block("x", b"%011o\0" % len(records), b"x") + records.ljust(-(-len(records) // 512) * 512, b"\0")


NEGATIVE = b"\xff" * 11 + b"\0"
LYING_TARS = {
    "negative size": block("a.png", NEGATIVE),
    "negative size, farther back": block("0.txt") + block("a.png", b"\xff" * 10 + b"\xfc\0"),
    "negative size in an extended header": pax(size="-1024") + block("a.png"),
    "size beyond the end": block("a.png", b"\x80" + b"\0" * 3 + b"\xff" * 8),
    "long name of a terabyte": block("x", b"\x80\0\0\0\0\0\1\0\0\0\0\0", b"L"),
    "extended header of a negative size": block("x", NEGATIVE, b"x"),
    "extended headers without end": pax(path="x") * 3000,
    "sparse file": block("a.png", kind=b"S")[:482] + b"\1" + bytes(29),
    "garbage after a member": block("a.png") + b"garbage" * 200,
}


@pytest.mark.parametrize("case", LYING_TARS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_tars_that_lie(tmp_path: Path, case: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "x.tar").write_bytes(pack(LYING_TARS[case]))
    with pytest.raises(UsageError, match="x.tar is truncated, damaged or not such an archive"):
        list(iterate_archive(tmp_path / "x.tar", Unused()))


def test_a_sparse_member_of_a_terabyte_is_not_filled_with_zeros(tmp_path: Path) -> None:
    names = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40), "GNU.sparse.realsize": str(2**40)}
    (tmp_path / "x.tar").write_bytes(pax(**names, path="a.png") + block("a.png") + bytes(1024))
    write_tar(tmp_path / "y.tar", {"a.png": FILES[0]})
    with pytest.raises(UsageError, match="no readable image"):
        opened(tmp_path / "x.tar")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"a/{number}.png": data for number, data in enumerate(FILES)})
    data = bytearray(path.read_bytes())
    second = data.index(b"a/1.png")
    data[second + 150] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="what follows byte [0-9,]+ is no header"):
        opened(path)


def test_members_of_a_zip_that_expand_or_are_encrypted_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in zip(("a.png", "b.png", "c.png"), FILES, strict=False):
            archive.writestr(name, data)
    changed = bytearray((tmp_path / "x.zip").read_bytes())
    second = changed.index(b"PK\1\2", changed.index(b"PK\1\2") + 1)
    changed[second + 8] |= 1  # encrypted
    third = changed.index(b"PK\1\2", second + 1)
    changed[third + 20 : third + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "x.zip").write_bytes(changed)
    assert read(tmp_path / "x.zip") == 2


# CIFAR-10


def test_a_member_of_cifar10_that_expands_is_refused_before_it_is_read(tmp_path: Path) -> None:
    images, labels = random_images(2, 32)
    files = {f"cifar-10-batches-py/{n}": d for n, d in cifar10_files([(images, labels)] * 5, (images, labels)).items()}
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(block("cifar-10-batches-py/data_batch_1", b"%011o\0" % 2**30))
        for _ in range(16):
            file.write(bytes(2**20))
    with pytest.raises(UsageError, match="data_batch_1 has 1,073,741,824 bytes, expected at most"):
        opened(tmp_path / "x.tar.gz", "cifar10")
    assert files


# Pickles


def load(data: bytes) -> object:
    return load_restricted(io.BytesIO(data), "batch")


PICKLES = {
    "bytes of gigabytes": b"\x80\3B\xff\xff\xff\xff.",
    "bytearray of gigabytes": b"\x80\5\x96\0\0\0\0\2\0\0\0.",
    "frame of exabytes": b"\x80\4\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "tuple that doubles a hundred times, as a key": b"\x80\2}N\x85" + b"q\0h\0\x86" * 100 + b"Ns.",
    "text encoded a thousand times": b"\x80\2c_codecs\nencode\nq\0X\0\0\1\0%bq\1X\6\0\0\0latin1q\2(%bl."
    % (b"a" * 65536, b"h\0h\1h\2\x86R" * 1000),
    "state of a function": b"\x80\2c_codecs\nencode\n}b.",
    "call of a string": b"\x80\2X\1\0\0\0a)R.",
    "persistent id": b"Pid\n.",
    "extension": b"\x80\2\x82\1.",
    "set": b"\x80\4\x8f.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_that_hang_or_expand(case: str) -> None:
    with pytest.raises(UsageError, match="batch is (refused|damaged)"):
        load(PICKLES[case])


def test_a_tuple_that_doubles_a_hundred_times_takes_no_time() -> None:
    assert load(b"\x80\2N\x85" + b"q\0h\0\x86" * 100 + b".")


def test_a_memo_takes_no_more_room_than_what_is_in_it() -> None:
    assert load(b"\x80\2]r\xff\xff\xff\x7f.") == []


def test_the_number_of_instructions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restricted_pickle, "MAX_STEPS", 1000)
    with pytest.raises(UsageError, match="more than 1,000 instructions"):
        load(b"\x80\2" + b"N0" * 500 + b"N.")


def test_arrays_that_lie(tmp_path: Path) -> None:
    whole = pickle.dumps({"data": np.zeros((2, 3), np.uint8)}, protocol=2)
    assert b"K\2K\3\x86" in whole
    with pytest.raises(UsageError, match="damaged"):
        load(whole.replace(b"K\2K\3\x86", b"K\2K\4\x86"))


# LSUN


def database(folder: Path, count: int = 200) -> Path:
    place = folder / "church_outdoor_train_lmdb"
    lsun_database(place, {f"{number:040x}": FILES[0] for number in range(count)})
    return place / "data.mdb"


def lsun(folder: Path) -> int:
    source = LsunSource(folder, "church_outdoor", Preprocessing(image_size=8), unverified=True)
    return sum(1 for _ in source.read("train"))


def test_a_database_whose_pages_are_damaged_does_not_kill_the_process(tmp_path: Path) -> None:
    whole = database(tmp_path).read_bytes()
    assert lsun(tmp_path) == 200
    for seed in range(8):
        random, data = np.random.default_rng(seed), bytearray(whole)
        for position in random.integers(0, len(data), 3000):
            data[position] = random.integers(256)
        database_file = tmp_path / "church_outdoor_train_lmdb/data.mdb"
        database_file.write_bytes(data)
        with pytest.raises(UsageError, match=r"truncated or not an LMDB database \(.+\): copy or download it again"):
            lsun(tmp_path)


def test_a_database_that_was_cut_is_named(tmp_path: Path) -> None:
    path = database(tmp_path)
    path.write_bytes(path.read_bytes()[:16384])
    with pytest.raises(UsageError, match="truncated or not an LMDB database"):
        lsun(tmp_path)


def test_keys_need_not_be_text(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"\xff\n", FILES[0])
    source = LsunSource(tmp_path, "church_outdoor", Preprocessing(image_size=8), unverified=True)
    assert [image.name for image in source.read("train")] == ["train/\\xff\\n"]


# Parquet and Arrow


def parquet_of(path: Path, values: list[bytes], **options: object) -> Path:
    pq.write_table(pa.table({"image": [{"bytes": value} for value in values]}), path, **options)
    return path


def test_a_value_that_expands_is_refused_before_it_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_PAGE_BYTES", 4 * 2**20)
    path = parquet_of(tmp_path / "x.parquet", [bytes(5 * 2**20)], compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    with pytest.raises(UsageError, match=r"x.parquet has a page of 5,242,\d+ bytes, uncompressed, more than 4,194,304"):
        opened(path)


def test_a_dictionary_that_is_used_often_is_read_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_BATCH_BYTES", 2**24)
    path = parquet_of(tmp_path / "x.parquet", [FILES[0], *[bytes(2**21)] * 60], compression="zstd")
    before, most = pa.total_allocated_bytes(), 0
    for _ in opened(path).read("train"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 2**21 < most < 2**26


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_tables_with_any_byte_changed_end_in_one_message_or_in_images(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet_of(path, FILES)
    else:
        table = pa.table({"image": [{"bytes": data} for data in FILES]})
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(whole)
        for position in random.integers(0, len(data), random.integers(1, 4)):
            data[position] = random.integers(256)
        path.write_bytes(data)
        try:
            read(path)
        except UsageError:
            refused += 1
    assert 0 < refused < 150


def test_compressed_arrow_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": data} for data in FILES]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(UsageError, match="x.arrow is compressed: save it uncompressed"):
        opened(tmp_path / "x.arrow")


# Names and places


@pytest.mark.parametrize("name", ["x.npz", "x.tar", "x.parquet", "x.txt", "x"])
def test_pipes_do_not_hang(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="is neither a folder nor a file"):
        opened(tmp_path / name)


@pytest.mark.parametrize("name", ["pipe", "pipe.json", "metadata.csv", "data.mdb"])
def test_pipes_in_folders_do_not_hang(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.png").write_bytes(FILES[0])
    os.mkfifo(tmp_path / name)
    try:
        assert any(name in line for line in opened(tmp_path).facts.not_used)
    except UsageError as error:
        assert "it is not a file" in str(error)


def test_names_that_are_too_long_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read /x+: File name too long"):
        opened(Path("/" + "x" * 300))


def test_names_of_classes_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m").mkdir()
    (tmp_path / "a\x1b[31m" / "1.png").write_bytes(FILES[0])
    with pytest.raises(UsageError, match=r"whose name cannot be printed, a\\x1b\[31m: rename"):
        opened(tmp_path)


def test_an_archive_that_is_a_link_out_of_the_source_is_only_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"../../etc/1.png": FILES[0], "/abs/2.png": FILES[1]})
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getnames() == ["../../etc/1.png", "/abs/2.png"]
    assert [image.name for image in opened(tmp_path / "x.tar").read("train")] == ["etc/1.png", "abs/2.png"]
