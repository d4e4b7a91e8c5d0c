"""The door into a guest: its QEMU agent, asked through libvirt, runs commands there and says what addresses it has.

A guest need not have one. `answers` says whether it does; everything else raises NoAgent, and nothing here waits for
longer than it is told to. What is said is documented in QEMU's "Guest Agent Protocol Reference".
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from ai_how.errors import CommandFailed, HostError, LibvirtError
from ai_how.host.libvirt import Handle, Libvirt

#: Seconds that the agent may take to take an order; a guest that is emulated and busy takes one or two.
ANSWER = 5.0

#: Seconds that a command inside may run.
WITHIN = 30.0

_AGAIN = 0.02
_SLOWEST = 0.2

_NO_MAC = "00:00:00:00:00:00"

#: How an agent says that its owner has switched a command off, or that it is too old to have it.
_SWITCHED_OFF = ("has been disabled", "has not been found", "not allowed")


class NoAgent(HostError):
    """The guest's agent does not answer, or may not do what it is asked: nothing can be done inside."""


class _Refused(NoAgent):
    """It answers, and says that it could not."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command inside ended; `code` is that of its exit, or 128 and the number of the signal that ended it."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the guest's, as the guest calls it, with its addresses. `mac` is empty for a loopback."""

    name: str
    mac: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


def answers(libvirt: Libvirt, name: str, *, within: float = ANSWER) -> bool:
    """Whether the agent of the machine `name` answers: not where the machine is off, has no agent, or hangs.

    Raises LibvirtError where there is no such machine.
    """
    machine = libvirt.get(libvirt.connection.lookupByName, name)
    try:
        ask(libvirt, machine, "guest-ping", within=within)
    except NoAgent:
        return False
    return True


def run(libvirt: Libvirt, name: str, argv: Sequence[str], within: float = WITHIN) -> Ran:
    """Run `argv` in the machine `name`, as root there and without a shell, and wait `within` seconds for its end.

    Whatever it ends with is no error. Raises NoAgent, and CommandFailed where it cannot be started or does not end in
    time: it is killed then, as it is when we are interrupted.
    """
    machine = libvirt.get(libvirt.connection.lookupByName, name)
    deadline = time.monotonic() + within
    try:
        begun = ask(libvirt, machine, "guest-exec", {"path": argv[0], "arg": list(argv[1:]), "capture-output": True})
    except _Refused as error:
        raise CommandFailed(argv, None, f"in {name}: {error.why}") from error
    pause = _AGAIN
    try:
        while not (status := ask(libvirt, machine, "guest-exec-status", {"pid": begun["pid"]}))["exited"]:
            if time.monotonic() > deadline:
                raise CommandFailed(argv, None, f"in {name}: no end after {within:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST)
    except BaseException:
        # Nobody waits for it any more, and the agent knows no order that ends what it has started.
        with contextlib.suppress(NoAgent):
            ask(libvirt, machine, "guest-exec", {"path": "kill", "arg": ["-9", str(begun["pid"])]})
        raise
    return read_ran(status)


def links(libvirt: Libvirt, name: str) -> tuple[Link, ...]:
    """The links of the machine `name` with the addresses that they have inside. Raises NoAgent."""
    machine = libvirt.get(libvirt.connection.lookupByName, name)
    return read_links(ask(libvirt, machine, "guest-network-get-interfaces"))


def read_ran(status: Mapping[str, Any]) -> Ran:
    """What `guest-exec-status` says of a command that has ended."""
    code = status["exitcode"] if "exitcode" in status else 128 + status.get("signal", 0)
    said = (base64.b64decode(status.get(each, "")).decode(errors="replace") for each in ("out-data", "err-data"))
    return Ran(code, *said)


def read_links(interfaces: Sequence[Mapping[str, Any]]) -> tuple[Link, ...]:
    """What `guest-network-get-interfaces` says."""
    return tuple(
        Link(
            each["name"],
            mac if (mac := each.get("hardware-address", "").lower()) != _NO_MAC else "",
            tuple(
                ip_interface(f"{address['ip-address'].partition('%')[0]}/{address['prefix']}")
                for address in each.get("ip-addresses", ())
            ),
        )
        for each in interfaces
    )


def ask(
    libvirt: Libvirt, machine: Handle, order: str, arguments: Mapping[str, Any] | None = None, within: float = ANSWER
) -> Any:
    """What the agent of `machine` (a handle of libvirt's) returns to an order. Raises NoAgent or LibvirtError."""
    import libvirt_qemu

    api = libvirt.api
    text = json.dumps({"execute": order} | ({"arguments": dict(arguments)} if arguments else {}))
    try:
        with libvirt.doing(f"the guest agent of {machine.name()} cannot be asked"):
            said = libvirt_qemu.qemuAgentCommand(machine, text, max(1, math.ceil(within)), 0)
    except LibvirtError as error:
        remedies = {
            api.VIR_ERR_OPERATION_INVALID: "",
            api.VIR_ERR_AGENT_UNRESPONSIVE: "Is it there, and does it run? In the guest: apt install qemu-guest-agent",
            api.VIR_ERR_AGENT_UNSYNCED: "Ask again; if it stays so, restart qemu-guest-agent in the guest.",
            api.VIR_ERR_ARGUMENT_UNSUPPORTED: "The machine was made without a channel for it, by an old version or by "
            "hand.",
            api.VIR_ERR_OPERATION_TIMEOUT: "Something else speaks to it; ask again later.",
        }
        if error.code in remedies:
            raise NoAgent(f"no guest agent in {machine.name()}", why=error.why, remedy=remedies[error.code]) from error
        if error.code != api.VIR_ERR_INTERNAL_ERROR:
            raise
        if any(each in error.why for each in _SWITCHED_OFF):
            remedy = f"Allow {order} in the guest: /etc/sysconfig/qemu-ga or /etc/qemu/qemu-ga.conf."
            raise NoAgent(f"the guest agent of {machine.name()} may not", why=error.why, remedy=remedy) from error
        raise _Refused(f"the guest agent of {machine.name()} could not", why=error.why) from error
    return json.loads(said)["return"]
