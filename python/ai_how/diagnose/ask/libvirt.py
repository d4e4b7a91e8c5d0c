"""What libvirt has, asked by its bindings or, where there are none, by virsh: the same data either way.

Nothing is understood here but names: XML is kept as libvirt wrote it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ai_how.errors import AiHowError, CommandFailed, HostError, PrivilegeError
from ai_how.host import agent, daemon
from ai_how.host import libvirt as door
from ai_how.host.process import output

#: Seconds in which virsh must have answered.
WITHIN = 8.0

#: Where administrators' programs are, which the PATH of users may leave out.
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin"

_DAEMONS = ("libvirtd", "virtqemud", "virtnetworkd")
_STATES = ("no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended")
_MARKER = "=====ai-how====="
#: Commands for one virsh: an argument may be 128 KiB long (execve(2)).
_AT_ONCE = 500

_UUID = re.compile(r"[0-9a-f-]{36}")


class Unreachable(AiHowError):
    """libvirt cannot be asked. `trouble` is as facts.Libvirt has it."""

    def __init__(self, trouble: str, what: str, *, why: str, remedy: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.trouble = trouble


class Asked(Protocol):
    """An open libvirt."""

    via: str

    def networks(self) -> list[dict[str, Any]]:
        """Every network: `name`, `active`, `persistent`, `autostart`, and its XML as it is `live` and `saved`."""

    def machines(self) -> list[dict[str, Any]]:
        """Every machine: `name`, `state`, `autostart`, and its XML as it is `live` and `saved`."""

    def version(self) -> str:
        """The daemon's version."""

    def offers_kvm(self) -> bool:
        """Whether it lists KVM among its domain types."""

    def agent(self, machine: str, order: str, arguments: Mapping[str, Any], within: int) -> Any:
        """What the guest agent of the machine of this UUID returns. Raises HostError."""


def connect(uri: str) -> Asked:
    """An open libvirt. Raises Unreachable."""
    if (pid := daemon.find()) is not None and _stopped(pid):
        remedy = f"Let it go on: kill -CONT {pid}"
        raise Unreachable("down", "libvirt does not answer", why=f"process {pid} is stopped", remedy=remedy)
    try:
        return Bindings(door.Libvirt(uri))
    except PrivilegeError as error:
        raise Unreachable("permission", error.what, why=error.why, remedy=error.remedy) from error
    except HostError as error:
        if error.what.startswith("no connection"):
            raise _no_connection(error) from error
        if shutil.which("virsh", path=SEARCH) is None:
            raise Unreachable("unknown", error.what, why=error.why, remedy=error.remedy) from error
        return Virsh(uri)
    except AiHowError as error:
        raise Unreachable("unknown", error.what, why=error.why, remedy=error.remedy) from error


def bindings_missing() -> str:
    """Why libvirt's Python bindings cannot be loaded; empty where they can."""
    try:
        door.bindings()
    except HostError as error:
        return f"{error.what}: {error.why}\n{error.remedy}"
    return ""


def _stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _no_connection(error: HostError) -> Unreachable:
    there = any(shutil.which(each, path=SEARCH) for each in _DAEMONS)
    return Unreachable("down" if there else "absent", error.what, why=error.why, remedy=error.remedy)


class Bindings:
    """Asked by libvirt's Python bindings."""

    via = "bindings"

    def __init__(self, libvirt: door.Libvirt) -> None:
        self._libvirt = libvirt

    def networks(self) -> list[dict[str, Any]]:
        with self._libvirt.doing("cannot list the networks"):
            handles = self._libvirt.connection.listAllNetworks(0)
        return self._each(handles, self._network)

    def machines(self) -> list[dict[str, Any]]:
        with self._libvirt.doing("cannot list the machines"):
            handles = self._libvirt.connection.listAllDomains(0)
        return self._each(handles, self._machine)

    def version(self) -> str:
        with self._libvirt.doing("cannot ask libvirt for its version"):
            return _version(int(self._libvirt.connection.getLibVersion()))

    def offers_kvm(self) -> bool:
        with self._libvirt.doing("cannot ask libvirt what it can do"):
            return "<domain type='kvm'" in self._libvirt.connection.getCapabilities()

    def agent(self, machine: str, order: str, arguments: Mapping[str, Any], within: int) -> Any:
        handle = self._libvirt.get(self._libvirt.connection.lookupByUUIDString, machine)
        return agent.ask(self._libvirt, handle, order, arguments, within=within)

    def _each(self, handles: Sequence[Any], read: Any) -> list[dict[str, Any]]:
        """What `read` says of each; without those that went while they were asked about."""
        asked = self._libvirt.map(lambda handle: self._libvirt.ask("cannot read it", lambda: read(handle)), handles)
        return sorted((each for each in asked if each is not None), key=lambda each: str(each["name"]))

    def _network(self, handle: Any) -> dict[str, Any]:
        active, persistent = bool(handle.isActive()), bool(handle.isPersistent())
        saved = self._libvirt.api.VIR_NETWORK_XML_INACTIVE
        return {
            "name": handle.name(),
            "active": active,
            "persistent": persistent,
            "autostart": bool(handle.autostart()),
            "live": handle.XMLDesc(0) if active else None,
            "saved": handle.XMLDesc(saved) if persistent else None,
        }

    def _machine(self, handle: Any) -> dict[str, Any]:
        api, state = self._libvirt.api, _STATES[handle.state()[0]]
        live, persistent = state not in ("shut off", "crashed", "no state"), bool(handle.isPersistent())
        return {
            "name": handle.name(),
            "uuid": handle.UUIDString(),
            "state": state,
            "autostart": bool(handle.autostart()) if persistent else False,
            "live": handle.XMLDesc(0) if live else None,
            "saved": handle.XMLDesc(api.VIR_DOMAIN_XML_INACTIVE) if persistent else None,
        }


class Virsh:
    """Asked by libvirt's own command line, where Python has no bindings."""

    via = "virsh"

    def __init__(self, uri: str) -> None:
        """Raises Unreachable."""
        self._uri = uri
        self._virsh = shutil.which("virsh", path=SEARCH) or "virsh"
        try:
            self._version = self._run(["version --daemon"])[0]
        except CommandFailed as error:
            raise _refusal(error, uri) from error

    def networks(self) -> list[dict[str, Any]]:
        everyone, active, persistent, autostart = (
            _UUID.findall(text)
            for text in self._run(
                [f"net-list --uuid {words}" for words in ("--all", "", "--all --persistent", "--all --autostart")]
            )
        )
        texts = iter(self._run([f"net-dumpxml {way} {each}" for each in everyone for way in ("", "--inactive")]))
        found = []
        for each in everyone:
            live, saved = next(texts), next(texts)
            if "<network" in live:
                name = re.search(r"<name>(.*?)</name>", live)
                found.append(
                    {
                        "name": _unescaped(name[1] if name else ""),
                        "active": each in active,
                        "persistent": each in persistent,
                        "autostart": each in autostart,
                        "live": live if each in active else None,
                        "saved": saved if each in persistent else None,
                    }
                )
        return sorted(found, key=lambda each: str(each["name"]))

    def machines(self) -> list[dict[str, Any]]:
        everyone, live_ones, persistent, autostart = (
            _UUID.findall(text)
            for text in self._run(
                [f"list --uuid {words}" for words in ("--all", "", "--all --persistent", "--all --autostart")]
            )
        )
        words = ("dumpxml", "dumpxml --inactive", "domstate")
        texts = iter(self._run([f"{way} {each}" for each in everyone for way in words]))
        found = []
        for each in everyone:
            live, saved, state = next(texts), next(texts), next(texts).strip()
            if "<domain" in live:
                name = re.search(r"<name>(.*?)</name>", live)
                found.append(
                    {
                        "name": _unescaped(name[1] if name else ""),
                        "uuid": each,
                        "state": {"in shutdown": "shutting down", "idle": "blocked", "pmsuspended": "suspended"}.get(
                            state, state
                        ),
                        "autostart": each in autostart,
                        "live": live if each in live_ones else None,
                        "saved": saved if each in persistent else None,
                    }
                )
        return sorted(found, key=lambda each: str(each["name"]))

    def version(self) -> str:
        found = re.search(r"daemon: .*?(\d+\.\d+\.\d+)", self._version)
        return found[1] if found else ""

    def offers_kvm(self) -> bool:
        return "<domain type='kvm'" in self._run(["capabilities"])[0]

    def agent(self, machine: str, order: str, arguments: Mapping[str, Any], within: int) -> Any:
        text = json.dumps({"execute": order} | ({"arguments": dict(arguments)} if arguments else {}))
        argv = [self._virsh, "-q", "-c", self._uri, "qemu-agent-command", machine, text]
        try:
            return json.loads(output([*argv, "--timeout", str(within)], timeout=within + 2))["return"]
        except ValueError as error:
            raise HostError("the guest agent cannot be asked", why=str(error)) from error

    def _run(self, commands: Sequence[str]) -> list[str]:
        """What each of virsh's `commands` says, of one virsh. They have no words but virsh's own and UUIDs.

        One that fails (its subject is gone) has said nothing, and the next are carried out all the same.
        """
        found: list[str] = []
        for first in range(0, len(commands), _AT_ONCE):
            some = commands[first : first + _AT_ONCE]
            argv = [self._virsh, "-q", "-c", self._uri, "; ".join(f"{each}; echo {_MARKER}" for each in some)]
            try:
                ran = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CommandFailed(argv, None, str(error)) from error
            said = ran.stdout.split(_MARKER)[: len(some)]
            if ran.returncode != 0 or len(said) < len(some):
                raise CommandFailed(argv[:4], ran.returncode, ran.stderr)
            found += said
        return found


def _refusal(error: CommandFailed, uri: str) -> Unreachable:
    what = f"no connection to libvirt at {uri}"
    if any(each in error.why for each in ("ermission denied", "uthentication", "polkit")):
        remedy = (
            "Run the same with sudo, or join the group that may: sudo usermod -aG libvirt $USER (then log in again)."
        )
        return Unreachable("permission", what, why=_last(error.why), remedy=remedy)
    return _no_connection(HostError(what, why=_last(error.why), remedy="Start it: sudo systemctl start libvirtd"))


def _last(text: str) -> str:
    lines: Iterable[str] = (line.removeprefix("error: ") for line in text.splitlines() if line.strip())
    return "; ".join(lines)


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _unescaped(text: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text
