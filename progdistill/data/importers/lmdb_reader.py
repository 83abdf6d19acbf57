"""Reads an LMDB database in a process of its own, which only this file and lmdb run in.

LMDB maps the database into memory and believes its pages: one that is damaged, or made to, kills the process that reads
it. So this program is started with the folder of the database as its argument. It writes to standard output the number
of entries (8 bytes, little-endian), and then for each entry in the order of keys the length of the key (4 bytes) and of
the value (8 bytes), the key, and the value. The first `skip` values are left out. An error is one line on standard
error, and exit status 1.

Arguments: the folder, the largest value that is read (in bytes; a larger one has the length 2**64-1), skip.
"""

import resource
import signal
import struct
import sys

MAX_KEY_BYTES = 511


def main() -> int:
    """Write the entries to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that reads this one's output is interrupted.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import lmdb
    except ImportError:
        print("LSUN's databases need the package lmdb: pip install lmdb", file=sys.stderr)
        return 2
    folder, limit, skip = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        with lmdb.open(folder, readonly=True, lock=False, readahead=False, max_readers=1) as environment:
            return _write(environment, limit, skip)
    except BrokenPipeError:
        return 0
    except (lmdb.Error, OSError, MemoryError, OverflowError, ValueError) as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1


def _write(environment: object, limit: int, skip: int) -> int:
    entries = environment.stat()["entries"]  # type: ignore[attr-defined]
    out = sys.stdout.buffer
    out.write(struct.pack("<Q", entries))
    out.flush()
    with environment.begin(buffers=True) as transaction:  # type: ignore[attr-defined]
        cursor = transaction.cursor()
        for number, key in enumerate(cursor.iternext(keys=True, values=False)):
            if number == entries:
                print("it has more entries than it says", file=sys.stderr)
                return 1
            if number < skip:
                continue
            value = cursor.value()
            if len(value) > limit:
                out.write(struct.pack("<IQ", len(key[:MAX_KEY_BYTES]), 2**64 - 1) + bytes(key[:MAX_KEY_BYTES]))
                continue
            out.write(struct.pack("<IQ", len(key[:MAX_KEY_BYTES]), len(value)))
            out.write(key[:MAX_KEY_BYTES])
            out.write(value)
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
