"""One ai-how at a time for each cluster of a host, whichever state files and users there are."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ai_how.errors import StateError


@contextmanager
def held(uri: str, cluster: str) -> Iterator[None]:
    """Hold `cluster` of the libvirt at `uri` until the block ends. Raises StateError at once where another has it.

    The lock is a name among the abstract sockets (unix(7)): no file whose owner matters, and gone with its holder.
    """
    name = hashlib.sha256(f"{uri} {cluster}".encode()).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0ai-how/{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise StateError(
                f"cluster {cluster} is in use by another ai-how",
                why="it works on the same cluster, with another state file",
                remedy="Wait until it has ended, then run this again.",
            ) from error
        yield
