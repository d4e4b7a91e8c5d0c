"""Asks a host everything that a question needs, side by side, once. Nothing is changed.

    libvirt.py    networks and machines, by libvirt's bindings or by virsh
    kernel.py     links, routes, settings, processes, and the files that matter
    firewall.py   every rule of the kernel; scratch.py: what ours must look like
    packets.py    real questions: DNS, ARP, DHCP, Consul
    guests.py     what machines say of themselves
    drift.py      what ai-how's engine finds, where its environment is there

Each part is asked by itself: what cannot be read, or does not answer in time, takes nothing else along.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ai_how.diagnose.ask import drift, firewall, guests, kernel, packets
from ai_how.diagnose.ask.libvirt import Asked, Unreachable, connect
from ai_how.diagnose.capture import Capture
from ai_how.diagnose.facts import Network, Part
from ai_how.diagnose.question import About, Question
from ai_how.diagnose.read import networks_of, read_leases, read_machine
from ai_how.errors import AiHowError, PrivilegeError
from ai_how.host import daemon, memory
from ai_how.resources.policy import read_policy
from ai_how.resources.registration import dns_address

#: Seconds after which what has not answered counts as not looked at.
WITHIN = 12.0

#: Addresses of one network that are asked for by ARP; of more, the first ones are.
MOST = 256

Task = Callable[[], Any]


def gather(uri: str, question: Question, state: Path | None = None) -> Capture:
    """Everything that `question` needs, of this host and its libvirt at `uri`, and the state file if there is one.

    Raises HostError in a network namespace that is not libvirt's: all its bridges would seem to be gone.
    """
    daemon.refuse_elsewhere("the host was not looked at")
    found: dict[Part, Any] = {}
    missing: dict[Part, str] = {}
    opened: list[Asked] = []
    _together(
        {
            Part.LIBVIRT: partial(_libvirt, uri, opened, found),
            Part.HOST: kernel.host,
            Part.LINKS: kernel.links,
            Part.ROUTES: kernel.routes,
            Part.SETTINGS: kernel.settings,
            Part.PROCESSES: kernel.processes,
            Part.LISTENERS: kernel.listeners,
            Part.LEASES: kernel.leases,
            Part.RESOLVER: kernel.resolver,
            Part.MEMORY: kernel.remembered,
            Part.FIREWALL: firewall.rules,
            Part.NEIGHBOURS: kernel.neighbours,
        },
        found,
        missing,
    )
    if Part.LIBVIRT not in found:
        found[Part.LIBVIRT] = {"uri": uri, "trouble": "down", "why": f"libvirt: {missing.pop(Part.LIBVIRT)}"}
    if Part.HOST in found:
        # A modular daemon is started by who speaks to it: now it is there.
        found[Part.HOST]["daemon"] = daemon.find()
    if Part.LISTENERS in found:
        # Who ended while we looked has its sockets for a moment more, and would be taken for another program.
        found[Part.LISTENERS] = list(filter(kernel.still_runs, found[Part.LISTENERS]))
    for part in (Part.NETWORKS, Part.MACHINES):
        if part not in found:
            missing[part] = found[Part.LIBVIRT].get("why", "libvirt was not asked")
    before = kernel.reverse_path_drops()
    try:
        networks = networks_of(Capture(found))
    except AiHowError as error:
        networks, missing[Part.NETWORKS] = (), str(error)
    tasks = _questions(uri, question, networks, found, opened)
    if state is not None and os.path.lexists(state):
        tasks[Part.STATE] = partial(drift.state, state)
    _together(tasks, found, missing)
    if Part.SETTINGS in found:
        # Our own questions are answered by now, or their answers were dropped.
        found[Part.SETTINGS]["rp_filter/drops"] = str(kernel.reverse_path_drops() - before)
    # Read last: by now the kernel has asked for whomever the questions went to.
    _together({Part.NEIGHBOURS: kernel.neighbours}, found, missing)
    return Capture(found, missing)


def _libvirt(uri: str, opened: list[Asked], found: dict[Part, Any]) -> dict[str, Any]:
    """How libvirt is there; its networks and machines are put into `found`."""
    try:
        asked = connect(uri)
    except Unreachable as error:
        why = f"{error.what}: {error.why}" if error.why else error.what
        return {"uri": uri, "trouble": error.trouble, "why": why, "remedy": error.remedy}
    opened.append(asked)
    found[Part.NETWORKS], found[Part.MACHINES] = asked.networks(), asked.machines()
    texts = [each["live"] or each["saved"] for each in found[Part.MACHINES]]
    wants_kvm = any("type='kvm'" in text.partition(">")[0] for text in texts)
    paths = {each["name"]: read_machine(each, {}).emulator for each in found[Part.MACHINES]}
    return {
        "uri": uri,
        "via": asked.via,
        "version": asked.version(),
        "offers_kvm": wants_kvm and asked.offers_kvm(),
        "emulators": kernel.emulators(paths),
    }


def _questions(
    uri: str, question: Question, networks: Iterable[Network], found: Mapping[Part, Any], opened: list[Asked]
) -> dict[Part, Task]:
    """What can be asked once it is known whom."""
    machines = [each for each in found.get(Part.MACHINES) or () if _is_meant(each, question)]
    meant = [each for each in networks if each.active and _concerns(each, question, machines)]
    answering = [each for each in meant if each.dns and each.gateway]
    upstream = {
        server for each in answering for server in each.asks((found.get(Part.RESOLVER) or {}).get("servers", ()))
    }
    tasks: dict[Part, Task] = {
        Part.NAMES: partial(
            _each, {each.name: partial(packets.ask_gateway, str(each.gateway.ip)) for each in answering if each.gateway}
        ),
        Part.UPSTREAM: partial(
            _each, {each: partial(packets.ask_upstream, *_address(each)) for each in sorted(upstream)}
        ),
        Part.CONSUL: partial(_each, dict(_consuls(meant))),
        Part.RESOLVES: partial(_each, dict(_host_names(meant, found))),
    }
    if opened and (any(each.cluster for each in networks) or (found.get(Part.MEMORY) or {}).get("files")):
        alone = {each.cluster for each in meant} if question.name else set()
        tasks[Part.DRIFT] = partial(drift.drift, uri, alone - {""})
    ports = {each.get("master") for each in found.get(Part.LINKS) or ()}
    inhabited = [each for each in meant if each.bridge in ports and each.gateway]
    tasks[Part.ANSWERING] = partial(
        _as_root, partial(_arp, inhabited, found.get(Part.LEASES) or {}, found.get(Part.NEIGHBOURS) or ())
    )
    tasks[Part.SERVERS] = partial(
        _as_root,
        partial(
            _each,
            {each.name: partial(packets.ask_dhcp, each.bridge, each.gateway) for each in inhabited if each.gateway},
        ),
    )
    if opened and question.about not in (About.NETWORKS, About.DNSMASQ):
        with_agent = [each for each in machines if each["live"] and "state='connected'" in each["live"]]
        tasks[Part.GUESTS] = partial(
            _each, {each["name"]: partial(guests.ask_guest, opened[0], each["uuid"]) for each in with_agent}
        )
    return tasks


def _is_meant(machine: Mapping[str, Any], question: Question) -> bool:
    match question.about:
        case About.MACHINE:
            return bool(machine["name"] == question.name)
        case About.NETWORK:
            return question.name in _sources(machine)
        case _:
            return True


def _concerns(network: Network, question: Question, machines: Iterable[Mapping[str, Any]]) -> bool:
    match question.about:
        case About.NETWORK:
            return network.name == question.name
        case About.MACHINE:
            return any(network.name in _sources(each) for each in machines)
        case _:
            return True


def _sources(machine: Mapping[str, Any]) -> set[str]:
    return {each.source for each in read_machine(machine, {}).interfaces if each.kind == "network"}


def _address(server: str) -> tuple[str, int]:
    """dnsmasq's notation, `address#port`."""
    address, _, port = server.partition("#")
    return address, int(port) if port.isdigit() else 53


def _consuls(networks: Iterable[Network]) -> Iterable[tuple[str, Task]]:
    for each in networks:
        discovery = read_policy(json.dumps(each.policy)).discovery if each.policy.get("discovery") else None
        if discovery is not None and discovery.address.startswith(("http://", "https://")):
            server = dns_address(discovery)
            yield each.name, partial(packets.ask_consul, discovery.address, str(server), discovery.dns_port)


def _host_names(networks: Iterable[Network], found: Mapping[Part, Any]) -> Iterable[tuple[str, Task]]:
    """A name of each network that the host itself shall know."""
    connected = {each.get("master") for each in found.get(Part.LINKS) or () if "LOWER_UP" in each.get("flags", ())}
    files = (found.get(Part.MEMORY) or {}).get("files", {})
    by_link = bool(files.get("resolver.links"))
    for each in networks:
        wanted = each.dns_mode == "shared_dns" and each.policy.get("host_resolver") != "none"
        # systemd-resolved passes over links without a carrier: until a machine is there, nobody is to be found.
        if wanted and each.reservations and (each.bridge in connected or not by_link):
            one = min(each.reservations, key=lambda reservation: reservation.ip)
            yield each.name, partial(kernel.resolves, f"{one.name}.{each.domain}", str(one.ip))


def _arp(
    networks: Iterable[Network], leases: Mapping[str, str], neighbours: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Everybody is asked for whom an address is reserved, who has a lease, or whom the kernel has met."""
    tasks = {}
    for each in networks:
        if each.gateway is None or each.subnet is None:
            continue
        wanted: dict[IPv4Address, None] = dict.fromkeys(reservation.ip for reservation in each.reservations)
        with contextlib.suppress(ValueError, KeyError):  # what is not understood is told by its own part
            wanted |= dict.fromkeys(lease.ip for lease in read_leases(leases.get(each.bridge, "")))
        wanted |= dict.fromkeys(IPv4Address(one["dst"]) for one in neighbours if one.get("dev") == each.bridge)
        near = [ip for ip in wanted if ip in each.subnet and ip != each.gateway.ip]
        tasks[each.bridge] = partial(packets.ask_everybody, each.bridge, each.gateway.ip, near[:MOST])
    return _each(tasks)


def _as_root(task: Task) -> Any:
    if not memory.is_root():
        raise PrivilegeError("whole frames were not sent", why="only root may send ARP and DHCP by a bridge")
    return task()


def _each(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What each says, side by side. One that fails because its link has gone meanwhile has said nothing."""
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    _together(tasks, found, missing)
    return found


def _together(tasks: Mapping[Any, Task], found: dict[Any, Any], missing: dict[Any, str], most: int = 24) -> None:
    """Do all of `tasks` side by side, into `found` and `missing`, within WITHIN seconds.

    By daemon threads: one that hangs (a libvirt that is stopped, a file system that is away) must not hold us.
    """
    todo: queue.SimpleQueue[tuple[Any, Task]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Any, Any, str]] = queue.SimpleQueue()
    for item in tasks.items():
        todo.put(item)

    def work() -> None:
        while True:
            try:
                name, task = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((name, task(), ""))
            # RuntimeError: after Ctrl-C nobody waits any more, and no thread is to be had for what is still asked.
            except (AiHowError, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
                done.put((name, None, "; ".join(str(error).splitlines()) or repr(error)))

    for _ in range(min(most, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    left, deadline = set(tasks), time.monotonic() + WITHIN
    while left:
        try:
            name, answer, trouble = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            missing.update(dict.fromkeys(left, f"no answer in {WITHIN:g} s"))
            return
        left.discard(name)
        if trouble:
            missing[name] = trouble
        else:
            found[name] = answer
