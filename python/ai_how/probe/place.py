"""A place that packets are sent from: a network namespace, and one thread of this process that lives in it.

A socket stays in the namespace it was made in, whoever uses it afterwards; so does a program started from there. A new
namespace has no name and ends with its thread, also when this process is killed, and its links end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from ai_how.errors import HostError, PrivilegeError
from ai_how.host.process import output

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class Place:
    """Somewhere to send packets from; `name` is for people, `thread` names the namespace to iproute2 (`netns`)."""

    def __init__(self, name: str, enter: Callable[[], None]) -> None:
        """Start the thread and take it there. Raises HostError or PrivilegeError."""
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"at {name}")
        try:
            self.at(enter)
            self.thread = self.at(threading.get_native_id)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Place {self.name}>"

    def at(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `do` returns when it is called in this namespace."""
        return self._thread.submit(do, *args, **kwargs).result()

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new socket in this namespace."""
        return self.at(socket.socket, family, kind, protocol)

    def run(self, argv: Sequence[str], *, text: str = "", timeout: float = 30.0) -> str:
        """What the program `argv`, started in this namespace, prints. Raises CommandFailed."""
        return self.at(output, argv, text=text, timeout=timeout)

    def set(self, setting: str, value: str) -> None:
        """Set a kernel setting of this namespace, as a path below /proc/sys, where the kernel has it."""
        path = Path("/proc/sys", setting)
        with contextlib.suppress(FileNotFoundError):
            self.at(path.write_text, value)

    def close(self) -> None:
        """End the thread, and with it a namespace that is nobody else's."""
        self._thread.shutdown()


@contextlib.contextmanager
def here(name: str = "host") -> Iterator[Place]:
    """The namespace that the caller is in."""
    with contextlib.closing(Place(name, lambda: None)) as place:
        yield place


@contextlib.contextmanager
def named(name: str) -> Iterator[Place]:
    """The namespace that `ip netns` knows as `name`."""

    def enter() -> None:
        descriptor = os.open(_NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_libc.setns(descriptor, _CLONE_NEWNET), f"network namespace {name} cannot be entered")
        finally:
            os.close(descriptor)

    with contextlib.closing(Place(name, enter)) as place:
        yield place


@contextlib.contextmanager
def new(name: str) -> Iterator[Place]:
    """A namespace of its own, empty but for a loopback."""

    def enter() -> None:
        _call(_libc.unshare(_CLONE_NEWNET), "no network namespace can be made")

    with contextlib.closing(Place(name, enter)) as place:
        yield place


def _call(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        kind = PrivilegeError if os.geteuid() != 0 else HostError
        raise kind(what, why=os.strerror(number), remedy="run it as root" if os.geteuid() != 0 else "")
