"""Datasets without images, for distillation from a model's own trajectories: prompts, or classes, alone."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from progdistill.data.columns import CAPTION, Column, caption_width
from progdistill.data.source import Source, SourceFacts, SourceImage
from progdistill.errors import UsageError


class PromptsSource(Source):
    """The lines of a UTF-8 text file that are not empty, one prompt each, in the file's order."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises UsageError if it has no prompts, or is not text."""
        data = path.read_bytes()
        try:
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text ({error}): write one prompt a line") from error
        self._name, self._prompts = path.name, [line for line in lines if line]
        if not self._prompts:
            raise UsageError(f"{path} has no prompts: write one a line")
        self.facts = SourceFacts(
            importer="prompts",
            location=str(path),
            description="one prompt a line",
            identity={"sha256": hashlib.sha256(data).hexdigest()},
            channels=0,
            image_size=0,
            class_names=(),
            horizontal_flip_safe=False,
            splits={"train": len(self._prompts)},
            columns=(Column(name=CAPTION, shape=(caption_width(self._prompts),), dtype="uint8"),),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. There are no images."""
        for number, prompt in enumerate(self._prompts[start:], start):
            yield SourceImage(f"{self._name}:{number + 1}", 0, None, prompt)


class ClassesSource(Source):
    """Each class of a model once; with 0 classes a single sample, for a model that is conditioned on nothing."""

    def __init__(self, classes: int) -> None:
        """Make a source of this many classes."""
        self._classes = classes
        self.facts = SourceFacts(
            importer="classes",
            location="no files",
            description="classes alone",
            identity={"classes": classes},
            channels=0,
            image_size=0,
            class_names=tuple(map(str, range(classes))),
            horizontal_flip_safe=False,
            splits={"train": max(1, classes)},
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. There are no images."""
        for label in range(start, max(1, self._classes)):
            yield SourceImage(f"class {label}", label, None)
