"""Mutations of files: of their bytes, and of the parts that their formats are made of.

A mutation of parts keeps what guards them (lengths, checksums, compression), so that it reaches what lies behind.
"""

import ast
import gzip
import io
import json
import pickle
import pickletools
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

INTEGERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    10,
    16,
    100,
    127,
    255,
    256,
    1000,
    65535,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63,
    2**64,
)
NUMBERS = (*INTEGERS, *(-number for number in INTEGERS), 10**30, 10**400, 0.5, -1.5, 1e-320, 1e300)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "\0",
        "\n",
        "\x1b[31m",
        "é",
        "\udc80",
        "日本",
        "x" * 300,
        "a/b",
        "../../x",
        "/",
        "..",
        "-",
        "--help",
    ),
    *(
        "$5_$10",
        "<script>",
        "{}",
        "{{x}}",
        "%s%n",
        "nan",
        "inf",
        "1e400",
        "0" * 64,
        "1970-01-01T00:00:00",
        "9999-12-31T23:59:59Z",
    ),
    *("2026-01-01T00:00:00+99:00", "true", "null", "digits", "8:1", "1024:1:3", "1" * 5000),
)


def mutate(data: bytes, random: Random) -> bytes:
    """Mutate a file up to three times, mostly in its own format."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        mutator: Mutator = mutate_bytes
        if random.random() < 0.75:
            mutator = next((found for fits, found in _FORMATS if fits(data)), mutate_bytes)
        try:
            data = mutator(data, random)
        except Exception:  # it is no longer of the format that it seems to have
            data = mutate_bytes(data, random)
    return data


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Flip, overwrite, insert, remove, repeat or cut bytes."""
    at = random.randrange(len(data) + 1)
    piece = data[at : at + random.choice((1, 2, 4, 8, 16, 64, 1000))]
    match random.randrange(9):
        case 0:
            return data[: at - 1] + bytes([data[at - 1] ^ 1 << random.randrange(8)]) + data[at:] if at else data
        case 1:
            return data[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))]) * len(piece) + data[at + len(piece) :]
        case 2 | 3:
            packed = _packed(random)
            return data[:at] + packed + data[at + len(packed) :]
        case 4:
            return data[:at] + random.randbytes(random.choice((1, 2, 8, 100))) + data[at:]
        case 5:
            return data[:at] + data[at + len(piece) :]
        case 6:
            return data[:at] + piece * random.choice((1, 2, 100)) + data[at:]
        case 7:
            other = random.randrange(len(data) + 1)
            return data[:at] + data[other : other + len(piece)] + data[at + len(piece) :]
        case _:
            return data[:at]


def _packed(random: Random) -> bytes:
    """An integer of some width and byte order, as it stands in lengths and offsets."""
    width = random.choice((1, 2, 4, 8))
    number = random.choice(INTEGERS) * random.choice((1, -1)) & ((1 << 8 * width) - 1)
    return number.to_bytes(width, random.choice(("little", "big")))


def mutate_json(data: bytes, random: Random) -> bytes:
    """Change types, sizes, names and nesting of JSON values."""
    tree = [json.loads(data)]
    parent, key = random.choice(list(_places(tree)))
    value, marker = parent[key], "nested values"
    depth = random.choice((1, 5, 99, 101, 300, 950, 1100, 100_000))
    match random.randrange(10):
        case 0 | 1:
            parent[key] = random.choice(NUMBERS)
        case 2:
            parent[key] = random.choice(TEXTS)
        case 3:
            parent[key] = random.choice((None, True, False, [], {}, float("nan"), [value], {"x": value}, str(value)))
        case 4:
            parent[key] = marker
        case 5:
            if isinstance(parent, list) and parent is not tree:
                parent[key : key + 1] = [value] * random.choice((0, 2, 1000))
            elif isinstance(parent, dict):
                del parent[key]
        case 6:
            if isinstance(parent, dict):
                parent[random.choice((*TEXTS, "id", "name", "extra"))] = parent.pop(key)
        case 7:
            if isinstance(value, dict):
                value[random.choice((*TEXTS, "extra"))] = random.choice((*NUMBERS, *TEXTS))
            elif isinstance(value, list):
                value.append(random.choice((*NUMBERS, *TEXTS)))
            elif isinstance(value, int | float):
                parent[key] = value * random.choice((-1, 2, 10**6))
            else:
                parent[key] = str(value) + random.choice(TEXTS)
        case _:
            other, name = random.choice(list(_places(tree)))
            parent[key], other[name] = other[name], value
    opening, closing = random.choice((("[", "]"), ('{"x":', "}")))
    text = json.dumps(tree[0]).replace(json.dumps(marker), opening * depth + "1" + closing * depth)
    return text.encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key, from the outside in."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
    for key in keys:
        yield from _places(tree[key])


def mutate_text(data: bytes, random: Random) -> bytes:
    """Change lines and words of TOML, CSV and other text."""
    lines = data.decode().split("\n")
    at = random.randrange(len(lines))
    depth = random.choice((5, 99, 101, 1100, 100_000))
    nested = random.choice(("[" * depth + "]" * depth, "{x=" * depth + "1" + "}" * depth, "x." * depth + "x"))
    odd = random.choice(
        (nested, str(random.choice(NUMBERS)), json.dumps(random.choice(TEXTS)), "1979-05-27", "[1, 'x']")
    )
    match random.randrange(6):
        case 0:
            lines[at] = re.sub(r"=.*", lambda _: f"= {odd}", lines[at])
        case 1:
            lines.insert(at, f"x = {odd}")
        case 2:
            lines[at] = f"{odd} = 1" if random.random() < 0.5 else f"[{odd}]"
        case 3:
            lines[at : at + 1] = [lines[at]] * random.choice((0, 2, 1000))
        case 4:
            words = re.split(r"(\W+)", lines[at])
            words[random.randrange(len(words))] = random.choice((odd, *TEXTS))
            lines[at] = "".join(words)
        case _:
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    return "\n".join(lines).encode(errors="surrogatepass")


def mutate_npy(data: bytes, random: Random) -> bytes:
    """Change the header of a numpy array, with its length kept right."""
    width = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    header, values = data[8 + width : 8 + width + length], data[8 + width + length :]
    fields = ast.literal_eval(header.decode("latin1"))
    match random.randrange(6):
        case 0 | 1:
            shape = [*fields["shape"]] or [1]
            shape[random.randrange(len(shape))] = random.choice(NUMBERS)
            fields["shape"] = tuple(shape)
        case 2:
            fields["shape"] = random.choice(((), (0,), (2,) * 40, (2,) * 100, "x", None, [3], (True, 2)))
        case 3:
            odd = ("|O", "<f4", ">i8", "<U1000000", "|V0", "|S0", "<m8", "<c16", "x", "", 5, [("a", "<i4", (10**6,))])
            fields["descr"] = random.choice((*odd, [("a", "|O")], ("<i4", (2, 2)), "<f16", "|b1", "<u8", "|i1"))
        case 4:
            fields["fortran_order"] = random.choice((True, False, 0, None, "x"))
        case _:
            header = mutate_bytes(header, random)
            return data[:8] + len(header).to_bytes(width, "little") + header + values
    text = "(" * random.choice((50, 300, 5000)) + repr(fields) if random.random() < 0.1 else repr(fields)
    header = text.encode("latin1", "replace") + b"\n"
    return data[:8] + len(header).to_bytes(width, "little") + header + values


def mutate_zip(data: bytes, random: Random) -> bytes:
    """Change, rename, repeat or remove a member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    members = _mutate_members(members, random)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def _mutate_members(members: list[tuple[str, bytes]], random: Random) -> list[tuple[str, bytes]]:
    at = random.randrange(len(members))
    name, content = members[at]
    match random.randrange(6):
        case 0:
            names = [other for other, _ in members] + [text for text in TEXTS if "\udc80" not in text]
            members[at] = random.choice(names), content
        case 1:
            members.insert(random.randrange(len(members)), members[at])
        case 2:
            del members[at]
        case _:
            members[at] = name, mutate(content, random)
    return members


def mutate_tar(data: bytes, random: Random) -> bytes:
    """Change a member or its header; the header's checksum is kept right."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
        contents = [(name, file.read()) for name, file in members if file is not None]
        offsets = [member.offset for member in archive]
    if random.random() < 0.5:
        file = io.BytesIO()
        with tarfile.open(
            fileobj=file, mode="w", format=random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        ) as out:
            for name, content in _mutate_members(contents, random):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
        return file.getvalue()
    at = random.choice(offsets)
    header = bytearray(data[at : at + 512])
    match random.randrange(4):
        case 0:
            header[156:157] = random.choice((b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g", b"S", b"7", b"\0"))
        case 1:
            size = random.choice(
                (b"0" * 11, b"7" * 11, b"\x80" + b"\xff" * 10, b"\xff" * 11, b"-0000000512", b"00000001000")
            )
            header[124:135] = size
        case 2:
            header[345:500] = random.randbytes(155)
        case _:
            header[: random.choice((100, 257))] = random.randbytes(257)[: random.choice((100, 257))]
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header) & 0o777777:06o}\0 ".encode()
    return data[:at] + bytes(header[:512]) + data[at + 512 :]


def mutate_gzip(data: bytes, random: Random) -> bytes:
    """Change what is compressed."""
    return gzip.compress(mutate(gzip.decompress(data), random), 1, mtime=0)


def mutate_png(data: bytes, random: Random) -> bytes:
    """Change a chunk, with its checksum kept right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    at = random.randrange(len(chunks))
    kind, content = chunks[at]
    match random.randrange(5):
        case 0:
            chunks.insert(random.randrange(len(chunks)), chunks[at])
        case 1:
            kind = random.choice(
                (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iTXt", b"zTXt", b"iCCP", b"acTL", b"eXIf")
            )
        case 2:
            content = (
                zlib.compress(mutate_bytes(zlib.decompress(content), random)) if kind == b"IDAT" else _packed(random)
            )
        case _:
            content = mutate_bytes(content, random)
    chunks[at] = kind, content
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + body


def mutate_safetensors(data: bytes, random: Random) -> bytes:
    """Change the header, with its length kept right."""
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length], random)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


OPCODES = (
    *(
        b"\x94",
        b"2",
        b"0",
        b"1",
        b"(",
        b".",
        b"R",
        b"b",
        b"\x81",
        b"}",
        b"]",
        b")",
        b"u",
        b"s",
        b"e",
        b"a",
        b"t",
        b"\x85",
    ),
    *(
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\x7f",
        b"q\xff",
        b"h\x00",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"\x95" + b"\xff" * 8,
    ),
    *(b"B\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"\x8b\x04\x00\x00\x00\xff\xff\xff\x7f", b"I9\n", b"p4000000000\n"),
    *(
        b"cos\nsystem\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"cbuiltins\neval\n",
        b"c_codecs\nencode\n",
        b"P1\n",
        b"Q",
    ),
    *(
        b"N",
        b"\x88",
        b"K\x05",
        b"J\xff\xff\xff\xff",
        b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"U\x03O10",
        b"S'x'\n",
        b"\x82\x01",
    ),
)


def mutate_pickle(data: bytes, random: Random) -> bytes:
    """Remove, repeat, move or insert instructions."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    ends = [*starts[1:], len(data)]
    at, other = random.randrange(len(starts)), random.randrange(len(starts))
    instruction = data[starts[at] : ends[at]]
    match random.randrange(5):
        case 0:
            return data[: starts[at]] + data[ends[at] :]
        case 1:
            return data[: starts[other]] + instruction * random.choice((1, 1, 3, 1000)) + data[starts[other] :]
        case 2:
            return data[: starts[at]] + random.choice(OPCODES) * random.choice((1, 1, 5000)) + data[ends[at] :]
        case 3:
            return data[: starts[at]] + random.choice(OPCODES) + data[starts[at] :]
        case _:
            return data[: starts[at]] + mutate_bytes(instruction, random) + data[ends[at] :]


def _is_json(data: bytes) -> bool:
    return data.lstrip()[:1] in (b"{", b"[") and _holds(json.loads, data)


def _is_text(data: bytes) -> bool:
    return b"\0" not in data and _holds(lambda data: data.decode("ascii"), data)


def _is_pickle(data: bytes) -> bool:
    return data[:1] in (pickle.PROTO, b"(", b"}") and data[-1:] == pickle.STOP


def _holds(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except (ValueError, RecursionError):
        return False
    return True


_FORMATS: tuple[tuple[Callable[[bytes], bool], Mutator], ...] = (
    (lambda data: data.startswith(b"\x93NUMPY"), mutate_npy),
    (lambda data: data.startswith(b"PK\3\4"), mutate_zip),
    (lambda data: data.startswith(b"\x1f\x8b"), mutate_gzip),
    (lambda data: data.startswith(b"\x89PNG"), mutate_png),
    (lambda data: data[257:262] == b"ustar", mutate_tar),
    (lambda data: data[8:10] == b'{"', mutate_safetensors),
    (_is_pickle, mutate_pickle),
    (_is_json, mutate_json),
    (_is_text, mutate_text),
)
"""How the formats are recognized."""
