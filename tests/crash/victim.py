"""A process that does one thing of the engine's and kills itself at a given instant, with no hook in the product.

Instants are seen from outside: by the events that any program may listen to, by Python's audit events (sys.audit) for
files and processes, and by the names in libvirt's bindings for calls that change something. Each has a name:

    before create network tried-network     the step is about to be taken, after: it was
    phase verify                            that part of the work begins
    planned                                 it is known what to do, and nothing is recorded yet
    file rename cluster_state.json          its new content is written beside it, and about to take its place
    run nft -j -f -                         a program is about to be started
    send /v1/agent/service/register         Consul is about to be asked for it
    signal SIGHUP                           a process is about to be told something
    call virDomainCreate                    libvirt is about to be asked for it
    within virDomainCreate                  libvirt has begun with it, and will end it after the kill
    undo: …                                 the same after the last step has failed

The second time of the same name in a run is `… (2)`. Steps go side by side: which of two comes first may differ from
run to run, what there is does not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ai_how.engine.events import Event, Phase, Planned, StepDone, StepStarted
from ai_how.errors import AiHowError, HostError

#: Below these what is written is ours, or where what is ours is written.
_WATCHED = (
    "/var/lib/ai-how",
    "/etc/libvirt",
    "/var/lib/libvirt",
    "/etc/NetworkManager",
    "/etc/dnsmasq.d",
    "/proc/sys/",
)
_WRITING = os.O_WRONLY | os.O_RDWR
#: Seconds in which libvirt has begun with what it was asked for.
_BEGUN_AFTER = 0.005

#: Words of command lines, and of names in libvirt's bindings, that only look.
_READING = {"list", "show", "get", "-S", "-json", "ss", "dns", "domain", "--version", "general"}
_ASKING = (
    "Get",
    "List",
    "Lookup",
    "Num",
    "Is",
    "XMLDesc",
    "Free",
    "Ref",
    "Event",
    "Connect",
    "DHCPLeases",
    "Stats",
    "Register",
)


@dataclass
class Instants:
    """Counts the instants of this process, and ends it at the one called `fatal`."""

    folder: Path
    fatal: str | None = None
    prefix: str = ""
    seen: list[str] = field(default_factory=list)
    _times: dict[str, int] = field(default_factory=dict)
    _one: Any = field(default_factory=threading.RLock)

    def reached(self, name: str, *, delay: float = 0) -> None:
        """Here we are; what is fatal kills after `delay` seconds."""
        with self._one:
            name = self.prefix + name
            count = self._times[name] = self._times.get(name, 0) + 1
            label = name if count == 1 else f"{name} ({count})"
            self.seen.append(label)
            if label == self.fatal:
                if not delay:
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def told(self, event: Event) -> None:
        """A progress for the engine."""
        match event:
            case StepStarted():
                self.reached(f"before {event.step}")
            case StepDone():
                self.reached(f"after {event.step}")
            case Phase(name="undo"):
                self.prefix = "undo: "
                self.reached("phase undo")
            case Phase():
                self.reached(f"phase {event.name}")
            case Planned():
                self.reached("planned")
            case _:
                pass

    def audited(self, event: str, arguments: Sequence[Any]) -> None:
        """An audit hook (docs.python.org: Audit events table)."""
        match event:
            case "open":
                path, _, flags = arguments
                if isinstance(flags, int) and flags & _WRITING and self._is_watched(path):
                    self.reached(f"file open {Path(path).name}")
            case "os.rename" | "os.remove" | "os.mkdir" | "os.rmdir":
                path = arguments[1] if event == "os.rename" else arguments[0]
                # Before a new file is written what a kill has left of an earlier one is removed, mostly nothing.
                if self._is_watched(path) and not str(path).endswith(".new"):
                    self.reached(f"file {event.removeprefix('os.')} {Path(path).name}")
            case "subprocess.Popen":
                words = [Path(str(arguments[1][0])).name, *map(str, arguments[1][1:])]
                if not _READING & {*words}:
                    self.reached(" ".join(["run", *words]))
            case "os.kill":
                self.reached(f"signal {signal.Signals(arguments[1]).name}")
            case "http.client.send" if arguments[1].startswith(b"PUT "):
                self.reached(f"send {arguments[1].split()[1].decode().partition('?')[0]}")
            case _:
                pass

    def _is_watched(self, path: Any) -> bool:
        if not isinstance(path, str | Path):
            return False
        return str(Path(path).absolute()).startswith((str(self.folder), *_WATCHED))

    def watch_libvirt(self) -> None:
        """Also name every call that may change something."""
        import libvirtmod

        for name in dir(libvirtmod):
            if name.startswith("vir") and not any(word in name for word in _ASKING):
                setattr(libvirtmod, name, self._named(name, getattr(libvirtmod, name)))

    def _named(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def named(*arguments: Any) -> Any:
            self.reached(f"call {name}")
            self.reached(f"within {name}", delay=_BEGUN_AFTER)
            return call(*arguments)

        return named


class Broken(HostError):
    """What a step fails with so that all of them are undone."""


def failing_at(at: str, listener: Callable[[Event], None]) -> Callable[[Event], None]:
    """`listener`, and a failure once the step of this name is done."""

    def told(event: Event) -> None:
        listener(event)
        if isinstance(event, StepDone) and str(event.step) == at:
            raise Broken("a step fails", why="the harness wants an undo", remedy="None.")

    return told


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: `killed` by itself, or with what it returned, or with the `error` that it raised."""

    killed: bool
    value: Any = None
    error: str = ""


def in_child(work: Callable[[], Any]) -> Ended:
    """Do it in a process of its own, forked from this one, which must have no other thread. What it returns is JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ended(killed=True)
    if not said:
        return Ended(killed=False, error=f"the child ended with {status} and without a word")
    value, error = json.loads(said)
    return Ended(killed=False, value=value, error=error)


def _be_child(work: Callable[[], Any], writing: int) -> None:
    code = 1
    try:
        try:
            said = [work(), ""]
        except AiHowError as error:
            said = [None, f"{type(error).__name__}: {error}"]
        except BaseException:  # noqa: BLE001 - whatever it is, the parent hears of it
            said = [None, traceback.format_exc()]
        os.write(writing, json.dumps(said).encode())
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)
