"""The door to what a host remembers of ai-how beside libvirt: small files in one directory that root writes.

Nothing in them is secret, and everybody may read them: what a user without root must know (what is in force) is here.
The directory goes with its last file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ai_how.errors import HostError
from ai_how.host.files import half, write_atomically

DIRECTORY = Path("/var/lib/ai-how")

#: Steps run side by side: one must not remove the directory that another is about to write to.
_ONE = threading.Lock()

#: Its number in linux/capability.h.
_CAP_NET_ADMIN = 12


def recall(name: str) -> Any:
    """What the file `name` holds, as JSON; None where there is none, or where it is not JSON."""
    try:
        return json.loads(recall_text(name) or "")
    except ValueError:
        return None


def recall_text(name: str) -> str | None:
    """What the file `name` holds; None where there is none. Raises HostError."""
    try:
        return (DIRECTORY / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _trouble(name, error) from error


def remember(name: str, content: Any) -> Path:
    """Write `content` as JSON to the file `name`; its path. Needs root. Raises HostError."""
    return remember_text(name, json.dumps(content, indent=1) + "\n")


def remember_text(name: str, text: str) -> Path:
    """Write `text` to the file `name`; its path. Needs root. Raises HostError."""
    path = DIRECTORY / name
    try:
        with _ONE:
            _make_directory()
            write_atomically(path, text, mode=0o644)
    except OSError as error:
        raise _trouble(name, error) from error
    return path


def keep(name: str, content: Mapping[str, Any], *, beside: str, text: str) -> None:
    """Write `content` as JSON to the file `name`, and `text`, the same as libvirt's hook reads it, to `beside`; forget
    both where nothing is left.

    A kill in between leaves an old `beside`, which whoever observes compares with what it should be.
    """
    if content:
        remember(name, content)
        remember_text(beside, text)
    else:
        forget(beside)
        forget(name)


def forget(name: str) -> None:
    """Remove the file `name`, and the directory if it was the last; no error where it is gone already."""
    path = DIRECTORY / name
    try:
        path.unlink(missing_ok=True)
        half(path).unlink(missing_ok=True)
    except OSError as error:
        raise _trouble(name, error) from error
    with _ONE, contextlib.suppress(OSError):  # not empty, or gone
        DIRECTORY.rmdir()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep libvirt's hook, which also loads what is remembered, waiting meanwhile (compile/hook.py). Needs root. Raises
    HostError."""
    try:
        with _ONE:
            _make_directory()
            handle = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _trouble("", error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def tidy() -> None:
    """Remove what a kill has left of first writes: half a file, and the directory that nothing came into. Only for the
    holder of the host's lock."""
    with contextlib.suppress(OSError):  # not there, or not ours to clean: what stands in it is seen when it is used
        for path in DIRECTORY.glob(".*.new"):
            path.unlink(missing_ok=True)
        DIRECTORY.rmdir()


def is_root() -> bool:
    """Whether this process may change the host: root, and not one whose right to the network was taken away, as in a
    container (capabilities(7))."""
    return os.geteuid() == 0 and bool(_capabilities() >> _CAP_NET_ADMIN & 1)


def _make_directory() -> None:
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)


def _capabilities() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(each for each in status.splitlines() if each.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _trouble(name: str, error: OSError) -> HostError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # The directory itself may be what there was no room for.
        remedy = f"Make room there: df -h {DIRECTORY if DIRECTORY.exists() else DIRECTORY.parent}"
    else:
        remedy = f"Look at it: ls -ld {DIRECTORY} {DIRECTORY / name}"
    return HostError(f"{DIRECTORY / name} cannot be used", why=error.strerror or str(error), remedy=remedy)
