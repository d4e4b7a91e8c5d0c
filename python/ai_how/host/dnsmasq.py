"""The door to dnsmasq: the daemons that run, and what each reads (dnsmasq(8))."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import HostError

_PROC = Path("/proc")
_PIDS = Path("/run/libvirt/network")
_LIBVIRTS = "/var/lib/libvirt/dnsmasq"

#: Seconds that one which was killed may take, on a busy host.
_ENDS_WITHIN = 10.0


def reload_network(network: str) -> bool:
    """Have the dnsmasq of the libvirt network `network` read its servers, names and reservations again (SIGHUP).

    False where it does not run: it will read them when it starts. Raises HostError.
    """
    try:
        with _held(network) as process:
            if process is not None:
                signal.pidfd_send_signal(process, signal.SIGHUP)
            return process is not None
    except ProcessLookupError:
        return False
    except OSError as error:
        raise HostError(
            f"the dnsmasq of network {network} cannot be told to read its files again",
            why=error.strerror or str(error),
            remedy=f"Look at it: ls -l {_PIDS}/{network}.pid",
        ) from error


@contextmanager
def until_ended(network: str) -> Iterator[None]:
    """Stop the libvirt network `network` in the block, and wait a while for the end of its dnsmasq: libvirt kills it
    without waiting, and the next one cannot listen where the old one still does."""
    with ExitStack() as stack:
        process = None
        with suppress(OSError):  # it cannot be seen
            process = stack.enter_context(_held(network))
        yield
        if process is not None:
            ended = select.poll()
            ended.register(process, select.POLLIN)
            ended.poll(_ENDS_WITHIN * 1000)


@contextmanager
def _held(network: str) -> Iterator[int | None]:
    """The dnsmasq of the libvirt network `network`, as a descriptor (pidfd_open(2)) for the length of a block; None
    where it does not run. Raises OSError."""
    with ExitStack() as stack:
        process = None
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((_PIDS / f"{network}.pid").read_text())
            held = os.pidfd_open(pid)
            stack.callback(os.close, held)
            # Looked at while held: a number that the kernel has given to somebody else since is not its own.
            if f"--conf-file={_LIBVIRTS}/{network}.conf" in _arguments(pid):
                process = held
        yield process


def serves(network: str) -> bool:
    """Whether the dnsmasq of the libvirt network `network` runs. True also where that cannot be seen."""
    try:
        pid = int((_PIDS / f"{network}.pid").read_text())
    except FileNotFoundError:
        return not _PIDS.is_dir()
    except ValueError:
        return False
    except OSError:
        return True
    return f"--conf-file={_LIBVIRTS}/{network}.conf" in _arguments(pid)


def forget_bridge(bridge: str) -> None:
    """Remove the leases and MACs that libvirt keeps by the name of a bridge whose dnsmasq ended. Raises HostError."""
    try:
        for each in ("status", "macs"):
            (Path(_LIBVIRTS) / f"{bridge}.{each}").unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            f"the leases of {bridge} cannot be removed",
            why=error.strerror or str(error),
            remedy=f"Look at them: ls -l {_LIBVIRTS}/{bridge}.*",
        ) from error


@dataclass(frozen=True, slots=True)
class Daemon:
    """A dnsmasq in this network namespace: the words it was started with, and whose files it reads at its start."""

    pid: int
    arguments: tuple[str, ...]
    directories: tuple[str, ...]

    @property
    def is_libvirts(self) -> bool:
        """Whether it serves a libvirt network, whoever's."""
        return any(_LIBVIRTS in word for word in self.arguments)


def daemons() -> tuple[Daemon, ...]:
    """Every dnsmasq that runs in our network namespace, as far as we may see."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _is_dnsmasq(entry):
            arguments = _arguments(int(entry.name))
            try:
                settings = settings_file(arguments).read_text(errors="replace")
            except OSError:
                settings = ""
            if arguments:
                found.append(Daemon(int(entry.name), arguments, directories(arguments, settings)))
    return tuple(sorted(found, key=lambda each: each.pid))


def _is_dnsmasq(entry: Path) -> bool:
    try:
        if (entry / "comm").read_text().strip() != "dnsmasq":
            return False
        return (entry / "ns/net").readlink() == Path(_PROC, "self/ns/net").readlink()
    except PermissionError:  # not root: containers' own ones are taken for ours
        return True
    except OSError:  # it has ended
        return False


def _arguments(pid: int) -> tuple[str, ...]:
    try:
        return tuple((_PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")[:-1])
    except OSError:
        return ()


def directories(arguments: Sequence[str], settings: str) -> tuple[str, ...]:
    """The directories whose files a dnsmasq with these `arguments` and the text of its configuration file reads."""
    found, words = [], list(arguments)
    for number, word in enumerate(words):
        if word in ("-7", "--conf-dir") and number + 1 < len(words):
            found.append(words[number + 1])
        elif word.startswith("--conf-dir="):
            found.append(word.partition("=")[2])
        elif word.startswith("-7"):
            found.append(word[2:])
    for line in settings.splitlines():
        name, _, value = line.partition("#")[0].partition("=")
        if name.strip() == "conf-dir":
            found.append(value.strip())
    # What follows a comma says which files of it are read, or are not.
    return tuple(each.split(",")[0].rstrip("/") for each in found if each)


def settings_file(arguments: Sequence[str]) -> Path:
    """The configuration file of a dnsmasq with these `arguments`."""
    words = list(arguments)
    for number, word in enumerate(words):
        if word in ("-C", "--conf-file") and number + 1 < len(words):
            return Path(words[number + 1])
        if word.startswith("--conf-file="):
            return Path(word.partition("=")[2])
    return Path("/etc/dnsmasq.conf")
