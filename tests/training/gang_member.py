"""A process that is one rank of a gang: says its generation's token, and leaves when told to."""

import sys

from progdistill.errors import PeerLostError
from progdistill.training import rendezvous
from progdistill.training.rendezvous import Gang


def main(rank: str, world_size: str, port: str, group: str) -> int:
    """Join, print the token, read one line, leave; say soon and often what is waited for."""
    rendezvous.WORDS_SECONDS = 1.0
    gang = Gang(int(rank), int(world_size), "localhost", int(port), group)
    print(gang.token, flush=True)
    sys.stdin.readline()
    try:
        gang.leave()
    except PeerLostError:
        return PeerLostError.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
