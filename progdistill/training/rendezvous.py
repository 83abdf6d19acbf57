"""How the ranks of a job find one another, and how all of them start again when one is lost.

A **generation** is one set of processes, one a rank, that train together. Rank 0 serves a key-value store and
names the generation with a random token; every rank joins it once. A rank that joins a second time is the
successor of a lost one: it declares the generation broken and waits for the rank 0 of the next. Every rank
watches for that, and for rank 0's end, and leaves with status 75: whoever started it starts it again, and all
meet at a fresh token with nothing left over from before.
"""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from torch._C._distributed_c10d import PrefixStore, TCPStore  # under torch.distributed they are untyped
from torch.distributed import DistError

from progdistill.errors import PeerLostError

WATCH_SECONDS: Final = 1.0
GOODBYE_SECONDS: Final = 60.0
WORDS_SECONDS = 60.0
"""How often a rank that waits for others says so: they may be queued for hours, or never be reached."""
_LONG: Final = timedelta(days=20)  # in milliseconds it must fit 31 bits
_SHORT: Final = timedelta(seconds=30)


class Gang:
    """One rank's place in a generation; `token` names the generation, `store` is for its process group."""

    def __init__(self, rank: int, world_size: int, address: str, port: int, group: str = "") -> None:
        """Meet the other ranks at rank 0's `address`; returns when all are there, however long that takes.

        Only ranks that name the same `group` meet: pods of a deleted Job may linger under the same names.
        """
        self._rank, self._ranks, self._token_key = rank, world_size, f"{group}/token"
        # A lookup of its own name can fail as long as rank 0 is not ready.
        self._address, self._port = ("127.0.0.1" if rank == 0 else address), port
        self._began = self._said_at = time.monotonic()
        self._server, self.token = self._served() if rank == 0 else self._joined()
        self.store = PrefixStore(self.token, self._server)
        if rank == 0:
            self.store.add("joined/0", 1)
        self._closing = threading.Event()
        self._watched = PrefixStore(self.token, self._connected())
        threading.Thread(target=self._watch, name="gang", daemon=True).start()
        try:
            # Not `wait`, in which no signal would be heard.
            while not self.store.check([f"joined/{other}" for other in range(world_size)]):
                self._wait_for(self._missing)
        except DistError as error:
            raise PeerLostError(f"rank 0 is gone: {error}") from error

    def claim_failure(self) -> bool:
        """Whether this rank is the first of its generation to fail; the others failed because of it."""
        try:
            return bool(self.store.add("failed", 1) == 1)
        except DistError:
            return False

    def agreed(self, name: str, decide: Callable[[], str]) -> str:
        """Rank 0's decision, on every rank."""
        try:
            if self._rank == 0:
                self.store.set(name, decide())
            self.store.wait([name], _LONG)
            return str(self.store.get(name).decode())
        except DistError as error:
            raise PeerLostError(f"rank 0 is gone: {error}") from error

    def leave(self) -> None:
        """Leave together: the others when rank 0 has done its last work, rank 0 when they have seen that."""
        try:
            if self._rank == 0:
                self.store.set("done", "")
                self._closing.set()
                others = [f"left/{other}" for other in range(1, self._ranks)]
                with suppress(DistError):
                    self.store.wait(others, timedelta(seconds=GOODBYE_SECONDS))
            else:
                self.store.wait(["done"], _LONG)
                self._closing.set()
                self.store.set(f"left/{self._rank}", "")
        except DistError as error:
            raise PeerLostError(f"rank 0 is gone: {error}") from error

    def _served(self) -> tuple[TCPStore, str]:
        """Serve the store of a new generation, once the port is free of the generation before."""
        while True:
            try:
                server = TCPStore(
                    "127.0.0.1", self._port, is_master=True, timeout=_SHORT, wait_for_workers=False
                )
            except DistError as error:
                if "EADDRINUSE" not in str(error):
                    raise
                self._wait_for(lambda: f"port {self._port}, which another process has")
                continue
            token = secrets.token_hex(8)
            server.set(self._token_key, token)
            return server, token

    def _joined(self) -> tuple[TCPStore, str]:
        broken = ""
        while True:
            try:
                server = self._connected()
                token = server.get(self._token_key).decode()
                if token != broken:
                    if server.add(f"{token}/joined/{self._rank}", 1) == 1:
                        return server, token
                    server.set(f"{token}/broken", f"rank {self._rank} was started again")
                    broken = token
            except DistError:
                pass  # rank 0 ended in between; the next will come
            self._wait_for(lambda: f"rank 0 to begin again at {self._address}:{self._port}")

    def _connected(self) -> TCPStore:
        while True:
            # Asked first in silence: TCPStore prints a stack trace for each attempt that fails.
            with suppress(OSError), socket.create_connection((self._address, self._port), timeout=5):
                break
            self._wait_for(lambda: f"rank 0, which does not answer at {self._address}:{self._port}")
        return TCPStore(self._address, self._port, is_master=False, timeout=_SHORT, wait_for_workers=False)

    def _wait_for(self, what: Callable[[], str]) -> None:
        now = time.monotonic()
        if now - self._said_at >= WORDS_SECONDS:
            self._said_at = now
            words = f"rank {self._rank} has waited {now - self._began:.0f} s for {what()}"
            print(words, file=sys.stderr, flush=True)
        time.sleep(WATCH_SECONDS / 4)

    def _missing(self) -> str:
        absent = [other for other in range(self._ranks) if not self.store.check([f"joined/{other}"])]
        return f"{len(absent)} of {self._ranks} ranks" + (f", rank {absent[0]} among them" if absent else "")

    def _watch(self) -> None:
        why = "rank 0 is gone"
        with suppress(DistError):
            while not self._watched.check(["broken"]):
                if self._closing.wait(WATCH_SECONDS):
                    return
            why = self._watched.get("broken").decode()
        if not self._closing.is_set():
            print(f"rank {self._rank}: {why}; all start again", file=sys.stderr, flush=True)
            os._exit(PeerLostError.exit_status)


def is_loss_of_a_peer(error: BaseException) -> bool:
    """Whether an error of a collective says that another process went away (gloo, NCCL, the store)."""
    if isinstance(error, PeerLostError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


_SIGNS: Final = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Application timeout caused pair closure",
    "Timed out waiting",
    "remote process exited",
    "ncclRemoteError",
    "wait timeout",
)
"""What gloo and NCCL say; their exceptions' types do not tell a lost peer from other faults."""
