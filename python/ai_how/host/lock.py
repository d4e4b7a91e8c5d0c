"""One ai-how at a time for each cluster of a host, and one for the host itself, whichever state files and users there
are.

The locks are names among the abstract sockets (unix(7)): no file whose owner matters, and gone with their holder.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ai_how.errors import InUse

#: The host's lock, while we hold it: a descriptor. For whatever is started meanwhile, however deep below the holder.
_of_host: int | None = None

#: Seconds that one waits for the host while another changes it: starting a hundred machines takes minutes.
HOST_WITHIN = 600.0


@contextmanager
def held(uri: str, cluster: str) -> Iterator[None]:
    """Hold `cluster` of the libvirt at `uri` until the block ends. Raises InUse at once where another has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        if not _taken(lock, hashlib.sha256(f"{uri} {cluster}".encode()).hexdigest()):
            raise InUse(
                f"cluster {cluster} is in use by another ai-how",
                why="it works on the same cluster, with another state file",
                remedy="Wait until it has ended, then run this again.",
            )
        yield


@contextmanager
def host_held(waiting: Callable[[], None], *, within: float = HOST_WITHIN) -> Iterator[None]:
    """Hold what all clusters of the host share until the block ends, after waiting for others who hold it.

    `waiting` is called once if that is necessary. Raises InUse after `within` seconds.
    """
    global _of_host
    deadline = time.monotonic() + within
    told = False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while not _taken(lock, "host"):
            if not told:
                waiting()
                told = True
            if time.monotonic() > deadline:
                raise InUse(
                    "the host is in use by another ai-how",
                    why=f"it has been changing this host for {within:g} s",
                    remedy="Look at what it does; when it has ended, run this again.",
                )
            time.sleep(0.05)  # nothing tells when an abstract name becomes free
        _of_host = lock.fileno()
        try:
            yield
        finally:
            _of_host = None


def passed_on() -> tuple[int, ...]:
    """What a program must have open to hold the host with us, and after us."""
    return () if _of_host is None else (_of_host,)


def _taken(lock: socket.socket, name: str) -> bool:
    """Whether the lock of this name is now ours."""
    try:
        lock.bind(f"\0ai-how/{name}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
