"""The door to names at which processes of this host meet: abstract sockets, gone with their holder (unix(7))."""

from __future__ import annotations

import errno
import json
import socket
import struct
from pathlib import Path
from typing import Any

from ai_how.errors import HostError, InUse

#: More than any message here has; one that is longer would be cut off (recv(2)).
_LONGEST = 1 << 16

_SOCKETS = Path("/proc/net/unix")


def listen(name: str) -> socket.socket:
    """Have this name, for others to come to. Raises InUse where somebody has it."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        server.bind(f"\0{name}")
    except OSError as error:
        server.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise InUse(f"the name {name} is taken", why="another process of this host has it") from error
    server.listen()
    return server


def meet(name: str, *, within: float) -> socket.socket | None:
    """A connection to whoever has this name, who has so many seconds for each answer; None where nobody has it."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(within)
    try:
        client.connect(f"\0{name}")
    except OSError as error:
        client.close()
        if error.errno == errno.ECONNREFUSED:
            return None
        raise HostError(
            f"no answer at {name}", why=error.strerror or str(error), remedy=f"Find who has it: ss -xlp | grep {name}"
        ) from error
    return client


def names(prefix: str) -> list[str]:
    """The names that begin with `prefix` and have a listener."""
    return read_names(_SOCKETS.read_text(encoding="utf-8", errors="replace"), prefix)


def read_names(text: str, prefix: str) -> list[str]:
    """The same, of the text of /proc/net/unix; connections carry the name of their listener, too."""
    paths = (line.split(maxsplit=7)[-1] for line in text.splitlines()[1:])
    return sorted({path[1:] for path in paths if path.startswith(f"@{prefix}")})


def owner(connection: socket.socket) -> int:
    """The user at the other end: of a listener, the one who had it listen (SO_PEERCRED, unix(7))."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def say(connection: socket.socket, message: Any) -> None:
    """Send one message, JSON. Raises OSError where nobody takes it."""
    connection.send(json.dumps(message).encode())


def hear(connection: socket.socket) -> Any:
    """The next message; None where the other end has gone. Raises OSError, ValueError where it is no JSON."""
    data = connection.recv(_LONGEST)
    return json.loads(data) if data else None
