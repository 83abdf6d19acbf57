"""What a file is by its first bytes: an image that is read, or something else with advice."""

from typing import Final

PILLOW_FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"),
    *("JPEG2000", "ICO", "QOI", "SGI", "PCX", "DIB", "TGA"),
)
"""The formats that Pillow may open, tried in this order; TGA begins like anything. Others start programs (PostScript:
Ghostscript), or are no photographs."""

IMAGE_SUFFIXES: Final = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
    *(".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
)

HEAD_BYTES: Final = 64
"""How much of a file is read to recognize its format."""

_IMAGES: Final = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"qoif"),
)

_OTHERS: Final = (
    (b"%!PS", "PostScript, which is a program: convert it to PNG"),
    (b"%PDF", "PDF: extract its images"),
    (b"8BPS", "Photoshop: convert it to PNG"),
    (b"\xff\x0a", "JPEG XL: convert it to PNG"),
    (b"\0\0\0\x0cJXL ", "JPEG XL: convert it to PNG"),
    (b"\x89HDF", "HDF5: save its arrays with numpy.savez"),
    (b"\x93NUMPY", "a numpy array: give that file alone as --source"),
    (b"PK\x03\x04", "a zip: unpack it, or give that file alone as --source"),
    (b"\x1f\x8b", "gzip: unpack it; a .tar.gz can be given alone as --source"),
    (b"\0\0\x08", "IDX, as of MNIST: save its arrays with numpy.savez"),
    (b"PAR1", "Parquet: give that file alone as --source"),
)


def is_image(head: bytes) -> bool:
    """Whether these first bytes are those of an image that is read, whatever the file's name."""
    bitmap = head.startswith(b"BM") and head[6:10] == bytes(4)
    webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    netpbm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\n", b"\r")
    avif = head[4:12] in (b"ftypavif", b"ftypavis")
    return head.startswith(_IMAGES) or bitmap or webp or netpbm or avif


def describe_failure(head: bytes) -> str | None:
    """What a file is, by its first bytes, that came instead of the one that was wanted; None for others."""
    if not head:
        return "empty: copy or download it again"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, such as an error instead of a download: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file: get the files with git lfs pull"
    return None


def is_archive(head: bytes) -> bool:
    """Whether these first bytes are those of a zip, or of something that may be a compressed tar."""
    return head.startswith((b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))


def describe_content(head: bytes) -> str | None:
    """What a file is that is no image, with what to do, for files that people take for images; None for others."""
    if (failure := describe_failure(head)) is not None:
        return failure
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "HEIC: convert it to JPEG or PNG"
    text = head.lstrip().lower()
    if text.startswith((b"<svg", b"<?xml")) and b"svg" in text:
        return "SVG: draw it as PNG"
    return next((kind for start, kind in _OTHERS if head.startswith(start)), None)
