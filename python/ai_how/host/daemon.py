"""The door to the daemon that runs libvirt's networks, as a process: who it is, and how it is told to read anew."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from ai_how.errors import HostError

#: Which daemon runs the networks, the first that is there: one of their own, or the one for everything (daemons.html).
_NAMES = ("virtnetworkd", "libvirtd")
_RUN = Path("/run")


def find() -> int | None:
    """Its process ID, None where none runs: it is started when somebody asks, or is not on this machine."""
    for name in _NAMES:
        try:
            pid = int((_RUN / f"{name}.pid").read_text())
            # A PID file may outlive its process, whose number then is another's.
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return pid
        except (OSError, ValueError):
            continue
    return None


def identity(pid: int) -> str:
    """What tells this process from every other since the host booted; empty where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name, second field and in parentheses, may hold anything; the start time is the 22nd (proc(5)).
    return f"{pid} {fields.rpartition(')')[2].split()[19]}"


def refuse_elsewhere(what: str) -> None:
    """Raise HostError, with `what` does not go, where its network is another one than ours: we are in a network
    namespace of our own, where its bridges seem to be gone, and rules would be nobody's. Not where it cannot be told.
    """
    pid = find()
    try:
        there, here = (Path(f"/proc/{each}/ns/net").stat().st_ino for each in (pid, "self"))
    except OSError:
        return
    if there != here:
        raise HostError(
            what,
            why="this is another network namespace than that of libvirt's daemon: its bridges and rules are not seen",
            remedy=f"Run it there: nsenter --net=/proc/{pid}/ns/net ai-how …",
        )


def reload(pid: int) -> None:
    """Let it read its configuration and hooks anew, as `systemctl reload` does; nothing where it is gone.

    It also starts what is marked for autostart and does not run. It is under way as soon as the daemon answers anybody
    who comes new, and `is_reloading` says for how long.
    """
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return


def is_reloading(pid: int) -> bool:
    """Whether it is still at that: libvirt does it in a thread of this name."""
    for thread in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has ended
            if thread.read_text().strip() == "daemon-reload":
                return True
    return False
