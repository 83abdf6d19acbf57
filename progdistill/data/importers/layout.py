"""The split and the class of images by the folders that they are in, for folders and archives alike.

`<class>/<image>`, or images alone, or either below the folders of splits; folders around all of them do not count.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from progdistill.data.importers.labels import MAX_NAME_LENGTH, label_name
from progdistill.data.importers.splits import (
    SPLIT_WORDS,
    AssignedSplit,
    UnclearSplitError,
    Words,
    require_splits,
    split_of,
    split_option,
    unclear,
)
from progdistill.errors import UsageError
from progdistill.escape import one_line

_NO_CLASSES: Final = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos", "pictures"})
"""A folder of this name, if it is the only one, is no class."""


class Place(NamedTuple):
    """Where images are: what their split and class depend on."""

    container: int
    folders: tuple[str, ...]
    chosen: AssignedSplit | None
    """What `--split` says of them."""
    words: Words
    """Splits whose words are in the images' own names."""


class Slot(NamedTuple):
    """The split of images, and the name of their class: empty if they have none."""

    split: str
    class_name: str


class _Images(NamedTuple):
    place: Place
    example: str
    split: str
    depth: int
    inner: tuple[str, ...]
    """The folders between the split's and the images."""

    @property
    def folder(self) -> str:
        return "/".join(self.place.folders)


def lay_out(
    where: str,
    places: Mapping[Place, str],
    containers: Sequence[Words],
    *,
    labeled: bool,
    partly: bool = False,
    packed: bool = False,
) -> dict[Place, Slot]:
    """Decide the split and the class of the images in each place.

    Args:
        where: The source, for messages.
        places: Every place with the name of an image in it.
        containers: For each folder or archive of the source, the splits that its own name states.
        labeled: Whether labels are elsewhere: folders are no classes then.
        partly: Whether only the training split needs to have classes by its folders.
        packed: Whether the images are in an archive: one folder around all of them is no class then.

    Raises:
        UsageError: A split is unclear, or images would have to be left out.
    """
    assigned = {place: _assigned(where, place, example, containers) for place, example in places.items()}
    require_splits(
        where, [(_name(place, assigned) or places[place], assigned[place].split) for place in places], each=False
    )
    images = []
    for place, example in places.items():
        split, depth = assigned[place]
        if depth > 0 and place.chosen is not None and _is_one_of_several(place, assigned):
            depth = 0
        images.append(_Images(place, example, split or "train", depth, place.folders[depth:]))
    if not labeled:
        _require_one_folder(where, images)
    else:
        return {image.place: Slot(image.split, "") for image in images}
    images = [image for split in dict.fromkeys(i.split for i in images) for image in _unwrapped(images, split)]
    if _are_no_classes(images, packed):
        images = [image._replace(inner=()) for image in images]
    _require_classes(where, [image for image in images if image.inner or image.split == "train" or not partly])
    return {image.place: Slot(image.split, _class_name(image.inner[0]) if image.inner else "") for image in images}


def _are_no_classes(images: Sequence[_Images], packed: bool) -> bool:
    """Whether the folders of images are no classes: one around all images, or those of splits."""
    names = {"/".join(image.inner).lower() for image in images}
    if all(image.depth == -1 for image in images) and names <= SPLIT_WORDS.keys():
        return True
    return len(names) == 1 and (names <= _NO_CLASSES or (packed and not any(image.depth for image in images)))


def _assigned(where: str, place: Place, example: str, containers: Sequence[Words]) -> AssignedSplit:
    if place.chosen is not None:
        return place.chosen
    try:
        return split_of(place.folders, place.words, containers[place.container])
    except UnclearSplitError as error:
        raise unclear(where, "/".join((*place.folders, "")) if place.folders else example, error) from error


def _name(place: Place, assigned: Mapping[Place, AssignedSplit]) -> str:
    """The outermost folder of images, with a slash, that has none of another split; empty if they are in none."""
    others = [other for other in assigned if assigned[other].split != assigned[place].split]
    for depth in range(1, len(place.folders) + 1):
        folder = place.folders[:depth]
        if depth == len(place.folders) or not any(other.folders[:depth] == folder for other in others):
            return "/".join((*folder, ""))
    return ""


def _is_one_of_several(place: Place, assigned: Mapping[Place, AssignedSplit]) -> bool:
    """Whether `--split` names several folders of images for one split: they are then classes, not the split's."""
    split, depth = assigned[place]
    return any(
        other.chosen is not None and assigned[other].split == split and other.folders[:depth] != place.folders[:depth]
        for other in assigned
    )


def _require_one_folder(where: str, images: Sequence[_Images]) -> None:
    folders: dict[str, str] = {}
    for image in images:
        if image.depth > 0 and image.place.chosen is None:
            folder = "/".join(image.place.folders[: image.depth])
            if (other := folders.setdefault(image.split, folder)) != folder:
                options = f"{split_option(image.split, other)} {split_option('none', folder)}"
                raise UsageError(
                    f"{where} has two folders for split {image.split}, {one_line(other)} and"
                    f" {one_line(folder)}: merge them, or say what they are with {options}; if they are classes,"
                    " with --split train"
                )


def _unwrapped(images: Sequence[_Images], split: str) -> list[_Images]:
    """Remove the folders that are around all images of a split; the innermost remains: it may be a class."""
    images = [image for image in images if image.split == split]
    first, shortest = images[0].inner, min(len(image.inner) for image in images)
    common = 0
    while common < shortest - 1 and all(image.inner[common] == first[common] for image in images):
        common += 1
    return [image._replace(inner=image.inner[common:]) for image in images]


def _require_classes(where: str, images: Sequence[_Images]) -> None:
    """Raise UsageError for images that are in no class folder, or deeper, and for classes that training lacks."""
    training = [image for image in images if image.split == "train"]
    names = sorted({image.inner[0] for image in training if image.inner})
    for name in names:
        _require_name(where, name)
    for image in images:
        place = one_line("/".join(filter(None, (where, image.folder))))
        if len(image.inner) > 1:
            raise UsageError(f"{place} has images that would be left out, such as {image.example}: move them")
        if image.split == "train" and names and not image.inner:
            shown = ", ".join(names[:3])
            raise UsageError(f"{place} has images beside the class folders {shown}: move them into one")
        if image.split != "train" and names and not image.inner:
            option = split_option("none", image.folder or image.example, below=bool(image.folder))
            raise UsageError(
                f"{place} has images that would be left out, such as {image.example}, since split train has classes:"
                f" move them, or leave them out with {option}"
            )
        if image.inner and image.inner[0] not in names:
            shown = one_line(image.inner[0])
            raise UsageError(f"class {shown} of split {image.split} is not in split train: add it there, or move it")


def _require_name(where: str, name: str) -> None:
    shown = one_line(name)
    if not name.isprintable() and shown.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
        raise UsageError(f"{where} has a class whose name is not UTF-8, {shown}: rename that folder")
    if not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise UsageError(f"{where} has a class whose name cannot be printed, {shown}: rename that folder")


def _class_name(folder: str) -> str:
    """The name of a class folder; of `label=cat`, as Hive has it, `cat`."""
    hive = re.fullmatch(r"([^=]+)=(.+)", folder)
    return unquote(hive[2]) if hive and label_name([hive[1]]) else folder
