"""Image files: below a folder, or in archives (tar, zip, WebDataset shards), which are read from front to back.

Splits and classes are those of the folders (`layout.py`), unless labels are beside the images: `metadata.csv` or
`metadata.jsonl` as the Hugging Face Hub has them, or `<image>.cls` and `<image>.json` as WebDataset has them
(https://github.com/webdataset/webdataset, "The WebDataset Format").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from progdistill.data.importers.common import native_size
from progdistill.data.importers.files import FoundFile, read_whole
from progdistill.data.importers.image_contents import Container, Contents, Scan
from progdistill.data.importers.labels import HIDDEN, require_labels
from progdistill.data.importers.layout import lay_out
from progdistill.data.importers.splits import SplitChoice
from progdistill.data.importers.unused import Unused
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line


class ImageFilesSource(Source):
    """Images in the order of sorted names (folders) or as stored (archives): equal sources give equal datasets."""

    def __init__(
        self,
        where: str,
        containers: Sequence[Container],
        preprocessing: Preprocessing,
        *,
        horizontal_flip_safe: bool,
        choices: Sequence[SplitChoice] = (),
        class_of_file: Mapping[str, str] | None = None,
        unused: Unused | None = None,
    ) -> None:
        """Look at every file, reading only those of labels.

        Args:
            where: The source, for messages.
            containers: The folder, or the archives.
            preprocessing: Of every image.
            horizontal_flip_safe: Whether a mirrored image is as plausible as the image.
            choices: What `--split` says.
            class_of_file: The class of images outside of class folders, by file name.
            unused: What is known already not to be used.

        Raises:
            UsageError: There are no images, or the split or the class of some is unclear.
        """
        self._contents, self._preprocessing = Contents(containers, choices), preprocessing
        self._class_of_file, unused = class_of_file or {}, unused or Unused()
        scan = Scan(where, self._contents, unused)
        if not scan.images:
            reasons = "".join(f"; {line}" for line in unused.lines()[:3])
            raise UsageError(f"{where} has no images{reasons}: give a folder of images or of class folders")
        words = [container.words for container in containers]
        labeled, partly = bool(scan.labels_from), bool(class_of_file)
        packed = not containers[0].path.is_dir()
        self._slots = lay_out(where, scan.places, words, labeled=labeled, partly=partly, packed=packed)
        self._place_of_image, self._ends = np.frombuffer(scan.images, np.int32), scan.ends
        self._places = list(scan.places)
        splits = self._count_splits()
        classes, labels_from = self._find_classes(where, scan, unused)
        identity = {"files": scan.digest, "preprocessing": preprocessing.model_dump(mode="json")}
        self.facts = SourceFacts(
            importer="image_files",
            location=where,
            description=preprocessing.describe(),
            identity=identity | ({"splits": [list(choice) for choice in choices]} if choices else {}),
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), where),
            class_names=classes,
            horizontal_flip_safe=horizontal_flip_safe,
            splits=splits,
            labels_from=labels_from,
            not_used=unused.lines(),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. An archive without images of the split, or only with some before `start`, is passed over."""
        number = 0
        for container, (first, end) in enumerate(zip([0, *self._ends], self._ends, strict=False)):
            count = int(np.count_nonzero(self._split_of_place(split)[self._place_of_image[first:end]]))
            if number + count <= start:
                number += count
                continue
            index = first
            for place, file in self._contents.images(container):
                if index == end or place != self._places[self._place_of_image[index]]:
                    break
                if self._slots[place].split == split:
                    if number >= start:
                        yield self._image(container, file, index, self._slots[place].class_name)
                    number += 1
                index += 1
            else:
                if index == end:
                    continue
            path = self._contents.containers[container].path
            raise UsageError(f"{path} changed while it was read: run the command again")

    def _count_splits(self) -> dict[str, int]:
        """The number of images of each split, the training split first."""
        names = sorted({slot.split for slot in self._slots.values()}, key=lambda split: (split != "train", split))
        return {name: int(np.count_nonzero(self._split_of_place(name)[self._place_of_image])) for name in names}

    def _split_of_place(self, split: str) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        return np.array([self._slots[place].split == split for place in self._places])

    def _find_classes(self, where: str, scan: Scan, unused: Unused) -> tuple[tuple[str, ...], str]:
        """Set the label of each image; return the names of the classes, and where labels come from."""
        if not scan.labels_from:
            classes = tuple(sorted({slot.class_name for slot in self._slots.values() if slot.class_name}))
            numbers = {name: number for number, name in enumerate(classes)}
            labels = [numbers.get(self._slots[place].class_name, HIDDEN if classes else 0) for place in self._places]
            self._labels, self._numbers = np.array(labels, np.int32)[self._place_of_image], numbers
            return classes, "folders" if classes else ""
        classes, self._labels = scan.labels.finish()
        self._numbers = {}
        if not len(classes):  # Publishers hide the labels of a test; here all are hidden.
            unused.add("labels that are all hidden (-1 or null)", scan.labels_from)
            self._labels = np.zeros_like(self._labels)
            return (), ""
        for split in dict.fromkeys(slot.split for slot in self._slots.values()):
            of_split = self._split_of_place(split)[self._place_of_image]
            places = [place for place in self._places if self._slots[place].split == split]
            names = dict.fromkeys(self._contents.name_of(place, scan.places[place]) for place in places)
            require_labels(where, split, self._labels[of_split], list(names))
        for folder in dict.fromkeys("/".join(place.folders) for place in self._places if place.folders):
            unused.add(f"folder name, since labels are from {scan.labels_from}", folder)
        return classes, scan.labels_from

    def _image(self, container: int, file: FoundFile, index: int, class_name: str) -> SourceImage:
        name, label = one_line(file.path), int(self._labels[index])
        path = self._contents.containers[container].path
        if label == HIDDEN:
            class_name = self._class_of_file.get(file.name, "")
            if class_name not in self._numbers:
                raise UsageError(f"{path}: class {class_name!r} of {name} is not in split train")
            label = self._numbers[class_name]
        load = partial(read_whole, file)
        return SourceImage(name, label, partial(_decode, load if path.is_dir() else _now(load), self._preprocessing))


def _now(load: Callable[[], bytes]) -> Callable[[], bytes]:
    """Read a member of an archive before the next one is asked for."""
    try:
        data = load()
    except UnreadableImageError as error:
        reason = error

        def fail() -> bytes:
            raise reason

        return fail
    return lambda: data


def _decode(load: Callable[[], bytes], preprocessing: Preprocessing) -> Pixels:
    return decode_image(load(), preprocessing)
