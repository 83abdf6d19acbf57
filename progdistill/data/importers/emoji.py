"""Emoji: the images of the npm package emoji-datasource-google, with their names as captions.

Format (https://github.com/iamcal/emoji-data): `package/emoji.json` lists each emoji with `name`, `unified` (its code
points), `category`, `subcategory`, `image` (a file below `package/img/google/64`, 64×64 PNG with transparency) and, for
people, `skin_variations` by modifier. The package is MIT, Google's images are Apache-2.0.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from progdistill.data.columns import CAPTION, Column, caption_width
from progdistill.data.importers.common import ANYWAY, explain_damage
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Source, SourceFacts, SourceImage
from progdistill.errors import UsageError
from progdistill.models_base import parse_json

PUBLISHED_SHA1: Final = "a80ac3e8106cbd4d8648ce758aa099e8827b6157"
"""Of emoji-datasource-google 16.0.0, as the npm registry states it."""

TEST_SHARE: Final = 10
"""One emoji of so many is of the test split."""

_LIST, _IMAGES = "package/emoji.json", "package/img/google/64/"
_SKIN_TONES: Final = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}


class _Emoji(NamedTuple):
    caption: str
    class_name: str
    image: str
    split: str


class EmojiSource(Source):
    """Images on white; classes are the 10 categories, or the subcategories.

    An emoji is of the test split if the SHA-256 of its code points, as a number, is divisible by 10: with all its skin
    tones, whatever else is in the package.
    """

    def __init__(self, path: Path, image_size: int, *, subcategories: bool, unverified: bool) -> None:
        """Read the list, and the encoded images. Raises UsageError for another package, or a damaged one."""
        self._preprocessing, sha1 = Preprocessing(image_size=image_size), _sha1(path)
        if not unverified and sha1 != PUBLISHED_SHA1:  # Before its contents are looked at.
            raise UsageError(
                f"{path} is not the published emoji-datasource-google-16.0.0.tgz: its SHA-1 is {sha1}, expected"
                f" {PUBLISHED_SHA1}. Download it again, or {ANYWAY}"
            )
        listed, self._images = _read_package(path)
        field = "subcategory" if subcategories else "category"
        self._emoji = [emoji for emoji in _emoji_of(listed, field) if emoji.image in self._images]
        if not self._emoji:
            raise UsageError(f"{path} has none of the images that its emoji.json lists: get emoji-datasource-google")
        classes = tuple(sorted({emoji.class_name for emoji in self._emoji}))
        self._labels = {name: label for label, name in enumerate(classes)}
        width = caption_width([emoji.caption for emoji in self._emoji])
        self.facts = SourceFacts(
            importer="emoji",
            location=str(path),
            description=f"on white, {self._preprocessing.describe()}; test: emoji whose code has a SHA-256 divisible by"
            f" {TEST_SHARE}",
            identity={"sha1": sha1, "image_size": image_size, "classes": field},
            channels=3,
            image_size=image_size,
            class_names=classes,
            horizontal_flip_safe=False,
            splits={split: sum(emoji.split == split for emoji in self._emoji) for split in ("train", "test")},
            columns=(Column(name=CAPTION, shape=(width,), dtype="uint8"),),
            labels_from=f"{field} in emoji.json",
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        own = [emoji for emoji in self._emoji if emoji.split == split]
        for emoji in own[start:]:
            decode = partial(decode_image, self._images[emoji.image], self._preprocessing)
            yield SourceImage(emoji.image, self._labels[emoji.class_name], decode, emoji.caption)


def _read_package(path: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The list of emoji, and the encoded images (15 MB) by file name."""
    listed: Any = None
    images = {}
    with (
        explain_damage(path, "truncated or not the package", (tarfile.TarError, EOFError, OSError, ValueError)),
        tarfile.open(path, "r:*") as archive,
    ):
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name == _LIST:
                listed = parse_json(file.read())
            elif file is not None and member.name.startswith(_IMAGES):
                images[member.name.removeprefix(_IMAGES)] = file.read()
    if not isinstance(listed, list):
        raise UsageError(f"{path} has no {_LIST}: get it with `npm pack emoji-datasource-google@16.0.0`")
    return listed, images


def _emoji_of(listed: list[dict[str, Any]], field: str) -> Iterator[_Emoji]:
    try:
        for one in listed:
            code, caption = str(one["unified"]), str(one["name"]).lower()
            is_test = int(hashlib.sha256(code.encode()).hexdigest(), 16) % TEST_SHARE == 0
            split = "test" if is_test else "train"
            yield _Emoji(caption, str(one[field]), str(one["image"]), split)
            for modifiers, variation in one.get("skin_variations", {}).items():
                tones = " and ".join(dict.fromkeys(_SKIN_TONES[tone] for tone in modifiers.split("-")))
                yield _Emoji(f"{caption}, {tones} skin tone", str(one[field]), str(variation["image"]), split)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"emoji.json has another form than that of emoji-datasource-google 16.0.0: {error!r}"
        ) from error


def _sha1(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
