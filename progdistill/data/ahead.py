"""Makes the next few batches in a background thread while the last one is being trained on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Items by number from `make`, which runs in a thread of its own, up to `depth` numbers ahead."""

    def __init__(self, make: Callable[[int], Item], depth: int) -> None:
        self._make, self._depth = make, depth
        self._coming: dict[int, Future[Item]] = {}
        self._thread = ThreadPoolExecutor(1, "ahead")

    def get(self, number: int) -> Item:
        """Item `number`; what `make` raised for it is raised here."""
        wanted = range(number, number + self._depth + 1)
        for stale in self._coming.keys() - set(wanted):
            self._coming.pop(stale).cancel()
        for coming in wanted:
            if coming not in self._coming:
                self._coming[coming] = self._thread.submit(self._make, coming)
        return self._coming.pop(number).result()

    def close(self) -> None:
        """Stop the thread; what was made ahead is dropped."""
        self._thread.shutdown(cancel_futures=True)
        self._coming.clear()
