"""The door to libvirt. Nothing else imports its bindings, which are loaded on first use (they cost 90 ms).

Handles (`virNetwork`, `virDomain`, …) are untyped in the bindings and stay `Any` here; everything that leaves the
providers is our own data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ai_how.errors import HostError, LibvirtError, PrivilegeError, UsageError

DEFAULT_URI = "qemu:///system"

#: libvirtd takes five requests of one client at a time (max_client_requests in libvirtd.conf); more would only queue.
AT_ONCE = 5

Handle = Any

T = TypeVar("T")
R = TypeVar("R")


def bindings() -> ModuleType:
    """The `libvirt` module. Raises HostError with the way to install it where it is missing."""
    try:
        import libvirt
    except ImportError as error:
        raise HostError(
            "libvirt's Python bindings cannot be loaded",
            why=str(error),
            remedy="Install them: pip install 'ai-how[libvirt]' (needs libvirt-dev, pkg-config, gcc), "
            "or apt-get install python3-libvirt.",
        ) from error
    # The bindings print every error to stderr by themselves unless told otherwise; we raise them.
    libvirt.registerErrorHandler(_say_nothing, None)
    module: ModuleType = libvirt
    return module


def _say_nothing(_context: object, _error: object) -> None:
    """An error handler for the bindings: errors are raised, not printed."""


class Libvirt:
    """An open connection. Its handle may be used from several threads at once (libvirt serialises what it must)."""

    def __init__(self, uri: str = DEFAULT_URI) -> None:
        """Connect to `uri`. Raises UsageError, PrivilegeError or LibvirtError, each with the remedy."""
        if urlsplit(uri).hostname:
            raise UsageError(
                f"clusters at {uri} cannot be managed from here",
                why="base images, routes and links are looked at on the machine that ai-how runs on",
                remedy="Run ai-how on that machine.",
            )
        self.uri = uri
        self.api = bindings()
        try:
            self.connection: Handle = self.api.open(uri)
        except self.api.libvirtError as error:
            raise _no_connection(uri, error, self.api) from error

    @property
    def is_system(self) -> bool:
        """Whether it is the system's own libvirt: only that one has bridges, and clusters that the host knows of."""
        return bool(urlsplit(self.uri).path == "/system")

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def __enter__(self) -> Libvirt:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def doing(self, what: str, *, remedy: str = "") -> Iterator[None]:
        """Turn what libvirt refuses inside the block into a LibvirtError that says `what` could not be done."""
        try:
            yield
        except self.api.libvirtError as error:
            raise LibvirtError(
                what,
                why=error.get_error_message() or str(error),
                remedy=remedy or _remedy(error.get_error_message() or ""),
                code=error.get_error_code(),
            ) from error

    def map(self, ask: Callable[[T], R], things: Sequence[T]) -> list[R]:
        """What `ask` says of each of `things`, in their order; AT_ONCE of them are asked about at the same time.

        `ask` should only ask: understanding an answer beside other threads that wait for theirs costs half as much
        again, because they fight over Python's lock.
        """
        answers: list[Any] = [None] * len(things)

        def share(first: int) -> None:
            for number in range(first, len(things), AT_ONCE):
                answers[number] = ask(things[number])

        # One task for each worker: a task for each question would cost as much as the question.
        with ThreadPoolExecutor(AT_ONCE) as workers:
            for _ in workers.map(share, range(min(AT_ONCE, len(things)))):
                pass
        return answers

    def ask(self, what: str, question: Callable[[], T]) -> T | None:
        """What libvirt answers; None where the thing that is asked about is gone, or never was.

        Every other error is a LibvirtError that says `what` could not be done.
        """
        missing = {
            self.api.VIR_ERR_NO_DOMAIN,
            self.api.VIR_ERR_NO_NETWORK,
            self.api.VIR_ERR_NO_STORAGE_POOL,
            self.api.VIR_ERR_NO_STORAGE_VOL,
        }
        try:
            with self.doing(what):
                return question()
        except LibvirtError as error:
            if error.code in missing:
                return None
            raise

    def find(self, lookup: Any, name: str) -> Handle | None:
        """What `lookup` (a bound `…LookupByName`) finds, None where there is nothing of that name."""
        return self.ask(f"cannot look up {name}", lambda: lookup(name))

    def get(self, lookup: Any, name: str) -> Handle:
        """What `lookup` finds. Raises LibvirtError where there is nothing of that name."""
        found = self.find(lookup, name)
        if found is None:
            raise LibvirtError(f"{name} is gone", why="it was there a moment ago; someone else removed it")
        return found


def _no_connection(uri: str, error: Any, api: ModuleType) -> HostError | PrivilegeError:
    message = error.get_error_message() or str(error)
    denied = {
        api.VIR_ERR_AUTH_FAILED,
        api.VIR_ERR_AUTH_UNAVAILABLE,
        api.VIR_ERR_AUTH_CANCELLED,
        api.VIR_ERR_OPERATION_DENIED,
    }
    if error.get_error_code() in denied or "Permission denied" in message:
        return PrivilegeError(
            f"no permission to use libvirt at {uri}",
            why=message,
            remedy="Run the same command with sudo, or join the group that may: sudo usermod -aG libvirt $USER "
            "(then log in again).",
        )
    return LibvirtError(
        f"no connection to libvirt at {uri}",
        why=message,
        remedy="Start it: sudo systemctl start libvirtd (or virtqemud.socket virtnetworkd.socket virtstoraged.socket). "
        "Not installed? apt-get install libvirt-daemon-system libvirt-daemon-driver-qemu qemu-system-x86 dnsmasq-base",
        code=error.get_error_code(),
    )


def _remedy(message: str) -> str:
    """What to do about messages of libvirt that do not say it."""
    if "dnsmasq" in message and (
        "Cannot find" in message or "No such file" in message or "not found" in message.lower()
    ):
        return "Install it: apt-get install dnsmasq-base"
    if "could not find capabilities" in message or "unable to find any emulator" in message:
        return "Install QEMU: apt-get install qemu-system-x86 libvirt-daemon-driver-qemu"
    if "failed to create listening socket" in message or "Address already in use" in message:
        return "Something else listens on the gateway's port 53 or 67; find it: ss -lunp 'sport = :53 or sport = :67'"
    if "No chain/target/match by that name" in message or "insert rule ip libvirt_network" in message:
        return "Somebody flushed libvirt's rules; have it make them anew (machines go on): systemctl restart libvirtd"
    if "already defined with uuid" in message or "already exists with uuid" in message:
        return "It was renamed; give it its name back (virsh domrename), or remove it yourself if you do not need it."
    return ""
