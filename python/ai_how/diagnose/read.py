"""Understands a capture: what a host said becomes facts. Pure; the same for a host and for a file from elsewhere."""

from __future__ import annotations

import contextlib
import json
import re
import xml.etree.ElementTree as ET  # a bare interpreter has no lxml
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, TypeVar

from ai_how.diagnose.capture import Capture
from ai_how.diagnose.facts import (
    Drift,
    Facts,
    Firewall,
    Forwarder,
    Guest,
    Interface,
    Kvm,
    Lease,
    Libvirt,
    Link,
    Listener,
    Machine,
    Memory,
    Network,
    Part,
    Reply,
    Reservation,
    Route,
    Server,
)
from ai_how.errors import HostError
from ai_how.host.machine import judge_kvm
from ai_how.resources.base import METADATA

T = TypeVar("T")

_DNSMASQ = "{http://libvirt.org/schemas/network/dnsmasq/1.0}"
_MARK = f"metadata/{{{METADATA}}}cluster"
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_EVERYTHING = IPv4Network("0.0.0.0/0")
_HALVES = tuple(_EVERYTHING.subnets())
_PROGRAM = re.compile(r'"([^"]*)",pid=(\d+)')

#: What data of another shape than it should have raises when it is read, or looked at: too deep, too large, not there.
NOT_UNDERSTOOD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, ET.ParseError)

#: Parts that are only asked for where there is something to ask (ask/).
_AT_TIMES = frozenset({Part.DRIFT, Part.STATE, Part.GUESTS, Part.LOGS})

#: What our files add to networks, by name.
_Hosts = Mapping[str, tuple[Reservation, ...]]

_NO_NETWORKS: tuple[Network, ...] = ()
_NO_PROCESSES: tuple[tuple[Server, ...], Mapping[str, float]] = ((), {})
_NO_MEMORY: tuple[Memory, _Hosts] = (Memory(), {})
_NO_RESOLVER: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
_NO_DRIFT: tuple[tuple[Drift, ...], tuple[str, ...]] = ((), ())
_NO_LEASES: tuple[Mapping[str, tuple[Lease, ...]], Mapping[str, str]] = ({}, {})

#: Where libvirt's dnsmasqs write their leases: NAME-OF-THE-BRIDGE.status.
_STATUS = "/var/lib/libvirt/dnsmasq"


def read_capture(capture: Capture) -> Facts:
    """The facts in `capture`. A part that cannot be understood is missing, like one that could not be asked for.

    A capture may come from anybody: whatever it holds, nothing is raised.
    """
    missing = dict(capture.missing)
    missing |= {
        part: f"nothing was said of its {part.value}"
        for part in Part
        if part not in _AT_TIMES and part not in missing and capture.get(part) is None
    }

    def part(part: Part, read: Callable[[Any], T], empty: T) -> T:
        data = capture.get(part)
        if data is None:
            return empty
        try:
            return read(data)
        except NOT_UNDERSTOOD as error:
            missing[part] = f"what the host said of its {part.value} is not understood: {error!r}"
            return empty

    host = part(Part.HOST, _host, _Host())
    libvirt = part(Part.LIBVIRT, _libvirt, Libvirt(""))
    servers, ages = part(Part.PROCESSES, _processes, _NO_PROCESSES)
    memory, hosts = part(Part.MEMORY, _memory, _NO_MEMORY)
    resolvers, resolver_asks = part(Part.RESOLVER, _resolver, _NO_RESOLVER)
    drift, unseen = part(Part.DRIFT, _drift, _NO_DRIFT)
    leases, unread_leases = part(Part.LEASES, _leases, _NO_LEASES)
    networks = part(
        Part.NETWORKS, lambda data: tuple(_with_files(read_network(each), hosts) for each in _list(data)), _NO_NETWORKS
    )
    return Facts(
        now=host.now,
        root=host.root,
        daemon=host.daemon,
        libvirt=libvirt,
        kvm=_kvm(host, libvirt),
        programs=host.programs,
        versions=host.versions,
        emulators=part(Part.LIBVIRT, lambda data: _texts(data.get("emulators", {})), {}),
        networks=networks,
        machines=part(
            Part.MACHINES,
            lambda data: tuple(map(partial(read_machine, ages=ages, networks=networks), _list(data))),
            (),
        ),
        links=part(Part.LINKS, lambda data: {each.name: each for each in read_links(_list(data))}, {}),
        routes=part(Part.ROUTES, lambda data: tuple(_halves_joined(read_routes(_list(data)))), ()),
        neighbours=part(Part.NEIGHBOURS, _neighbours, {}),
        settings=part(Part.SETTINGS, _texts, {}),
        servers=servers,
        listeners=part(Part.LISTENERS, lambda data: tuple(filter(None, map(read_listener, _list(data)))), ()),
        leases=leases,
        unread_leases=unread_leases,
        firewall=part(Part.FIREWALL, _firewall, Firewall("")),
        resolvers=resolvers,
        resolver_asks=resolver_asks,
        resolves=part(Part.RESOLVES, _replies, {}),
        memory=memory,
        drift=drift,
        unseen=unseen,
        state=part(Part.STATE, _words, ()),
        names=part(Part.NAMES, _replies, {}),
        upstream=part(Part.UPSTREAM, _replies, {}),
        answering=part(Part.ANSWERING, _answering, {}),
        dhcp_servers=part(Part.SERVERS, lambda data: {name: _words(found) for name, found in data.items()}, {}),
        consul=part(Part.CONSUL, _replies, {}),
        guests=part(Part.GUESTS, lambda data: {name: read_guest(each) for name, each in data.items()}, {}),
        missing=missing,
    )


@dataclass(frozen=True, slots=True)
class _Host:
    """What the part of the host says."""

    now: float = 0.0
    root: bool = False
    daemon: int | None = None
    programs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    kvm_device: str = ""
    cpu_flags: tuple[str, ...] = ()


def _host(data: Mapping[str, Any]) -> _Host:
    daemon = data.get("daemon")
    return _Host(
        now=float(data.get("now", 0)),
        root=bool(data.get("root")),
        daemon=None if daemon is None else int(daemon),
        programs=_texts(data.get("programs", {})),
        versions=_texts(data.get("versions", {})),
        kvm_device=_text(data.get("kvm_device", "")),
        cpu_flags=_words(data.get("cpu_flags", [])),
    )


def _libvirt(data: Mapping[str, Any]) -> Libvirt:
    known = {each.name for each in fields(Libvirt)} - {"offers_kvm"}
    texts = {name: _text(value) for name, value in data.items() if name in known}
    return Libvirt(**{"uri": "", **texts}, offers_kvm=bool(data.get("offers_kvm")))


def _kvm(host: _Host, libvirt: Libvirt) -> Kvm:
    flags = " ".join(host.cpu_flags)
    found = judge_kvm(offered=libvirt.offers_kvm, device=host.kvm_device, cpuinfo=f"flags : {flags}")
    return Kvm(found.usable, found.why)


def _processes(data: Any) -> tuple[tuple[Server, ...], Mapping[str, float]]:
    """The dnsmasqs of networks, and how long machines have run, by name."""
    servers = tuple(
        Server(int(each["pid"]), _text(each["network"]), bool(each["stopped"]))
        for each in _list(data)
        if "network" in each
    )
    return servers, {_text(each["machine"]): float(each["age"]) for each in data if "machine" in each}


def _resolver(data: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The host's name servers, and those that one on the host itself asks."""
    return _words(data.get("servers", [])), _words(data.get("asks", []))


def _drift(data: Mapping[str, Any]) -> tuple[tuple[Drift, ...], tuple[str, ...]]:
    return tuple(Drift(**_texts(each)) for each in _list(data["found"])), _words(data.get("unseen", []))


# ---- data of the shape that it should have ------------------------------------------------------------------------


def _text(data: Any) -> str:
    if not isinstance(data, str):
        raise TypeError(f"a text was expected, not {type(data).__name__}")
    return data


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list | tuple):
        raise TypeError(f"a list was expected, not {type(data).__name__}")
    return list(data)


def _words(data: Any) -> tuple[str, ...]:
    return tuple(map(_text, _list(data)))


def _texts(data: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in data.items()}


# ---- libvirt ----------------------------------------------------------------------------------------------------


def read_network(data: Mapping[str, Any]) -> Network:
    """One network: what runs where it is active, else what is defined."""
    tree = ET.fromstring(data["live"] or data["saved"])  # noqa: S314 - libvirt's own
    saved = ET.fromstring(data["saved"]) if data["saved"] else tree  # noqa: S314
    # libvirt keeps the mark of the network's start with what runs; the one that is defined counts.
    mark = saved.find(_MARK)
    facts: Mapping[str, str] = {} if mark is None else mark.attrib
    ip = next(
        (each for each in tree.findall("ip") if each.get("family", "ipv4") == "ipv4" and each.get("address")), None
    )
    gateway = None
    if ip is not None:
        gateway = IPv4Interface(f"{ip.get('address')}/{ip.get('prefix') or ip.get('netmask') or 24}")
    forward, dns = tree.find("forward"), tree.find("dns")
    mtu = _attribute(tree, "mtu", "size")
    return Network(
        name=tree.findtext("name", ""),
        active=bool(data["active"]),
        persistent=bool(data["persistent"]),
        autostart=bool(data["autostart"]),
        bridge=_attribute(tree, "bridge", "name"),
        mac=_attribute(tree, "mac", "address").lower(),
        mtu=int(mtu) if mtu else None,
        forward="none" if forward is None else forward.get("mode", "nat"),
        devices=()
        if forward is None
        else tuple(
            dict.fromkeys(name for each in (forward, *forward.iterfind("interface")) if (name := each.get("dev", "")))
        ),
        gateway=gateway,
        ranges=tuple(
            (IPv4Address(each.get("start", "")), IPv4Address(each.get("end", "")))
            for each in (() if ip is None else ip.iterfind("dhcp/range"))
        ),
        reservations=tuple(
            Reservation(IPv4Address(each.get("ip", "")), each.get("mac", "").lower(), each.get("name", ""))
            for each in (() if ip is None else ip.iterfind("dhcp/host"))
            if each.get("ip")
        ),
        dns=gateway is not None and (dns is None or dns.get("enable") != "no"),
        forwarders=tuple(
            Forwarder(each.get("addr", ""), each.get("domain", ""))
            for each in tree.iterfind("dns/forwarder")
            if each.get("addr")
        ),
        options=tuple(
            each.get("value", "") for each in tree.iterfind(f"{_DNSMASQ}options/{_DNSMASQ}option") if each.get("value")
        ),
        domain=_attribute(tree, "domain", "name"),
        cluster=facts.get("cluster", ""),
        dns_mode=facts.get("dns_mode", ""),
        told=tuple(facts.get("dns_servers", "").split()),
        upstream=tuple(facts.get("upstream", "").split()),
        policy=_policy(facts.get("policy", "")),
        differences=tuple(network_differences(tree, saved)) if data["active"] else (),
    )


def _policy(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _with_files(network: Network, hosts: _Hosts) -> Network:
    """What our files add to a network that runs: its reservations (resources/network.py)."""
    if not network.active:
        return network
    known = {(each.ip, each.mac) for each in network.reservations}
    return network.adding(each for each in hosts.get(network.name, ()) if (each.ip, each.mac) not in known)


def _in_file(text: str) -> Iterator[Reservation]:
    """The reservations in a file that dnsmasq reads; lines that somebody put there for another purpose are passed."""
    for line in text.splitlines():
        match line.split(","):
            case [mac, ip, name]:
                with contextlib.suppress(ValueError):
                    yield Reservation(IPv4Address(ip), mac.lower(), name)
            case _:
                pass


#: What of a network's definition is at work as soon as it runs; the rest of the XML is notes of libvirt's.
_AT_WORK = ("forward", "bridge", "mtu", "mac", "domain", "dns", "ip", "route", "bandwidth", "portgroup")


def network_differences(live: ET.Element, saved: ET.Element) -> Iterator[str]:
    """What of a network runs otherwise than it is defined, in words. Our files hold what was added while it ran."""
    ours = live.find(_MARK) is not None or saved.find(_MARK) is not None
    for tag in _AT_WORK:
        running, defined = (sorted(map(_canonical, each.findall(tag))) for each in (live, saved))
        if ours and tag in ("dns", "ip"):
            continue  # the rest of these is in files of ours: engine/drift.py knows how to read them
        if running != defined:
            yield f"<{tag}> runs as {_short(running)}, and is defined as {_short(defined)}"


_ALL_PORTS = b'<port start="1024" end="65535" />'


def _canonical(element: ET.Element) -> str:
    copy = ET.fromstring(ET.tostring(element))  # noqa: S314
    nat = copy.find("nat")
    if nat is not None and [ET.tostring(port).strip() for port in nat] == [_ALL_PORTS]:
        copy.remove(nat)  # libvirt says of what runs which ports it takes; these are all of them
    for each in copy.iter():
        each.text, each.tail = (each.text or "").strip() or None, None
        each.attrib.pop("connections", None)
    return ET.tostring(copy, encoding="unicode")


def _short(texts: list[str], most: int = 160) -> str:
    text = " ".join(texts) or "nothing"
    return text if len(text) <= most else f"{text[:most]}…"


def read_machine(data: Mapping[str, Any], ages: Mapping[str, float], networks: Iterable[Network] = ()) -> Machine:
    """One machine: what runs where it does, else what is defined. `networks` tell what libvirt makes of interfaces."""
    tree = ET.fromstring(data["live"] or data["saved"])  # noqa: S314 - libvirt's own
    saved = ET.fromstring(data["saved"]) if data["saved"] else tree  # noqa: S314
    mark = saved.find(_MARK)
    name = tree.findtext("name", "")
    agent = next(
        (
            target.get("state", "")
            for target in tree.iterfind("devices/channel/target")
            if target.get("name") == "org.qemu.guest_agent.0"
        ),
        "",
    )
    interfaces = tuple(map(_interface, tree.iterfind("devices/interface")))
    differences: tuple[str, ...] = ()
    if data["live"] and data["saved"]:
        defined = tuple(map(_interface, saved.iterfind("devices/interface")))
        interfaces = tuple(_of_network(each, defined, networks) for each in interfaces)
        # Of what is only defined libvirt does not say which tap it will have, or whether it is plugged in.
        now, then = (sorted((nic.kind, nic.source, nic.mac) for nic in each) for each in (interfaces, defined))
        if now != then:
            differences = (f"it runs with {_nics(now)}, and is defined with {_nics(then)}",)
        differences += tuple(
            f"it runs with {_short([running])} as its {tag}, and is defined with {_short([wanted])}"
            for tag in _OF_MACHINE
            if (running := _said_of(tree, tag)) != (wanted := _said_of(saved, tag))
        )
    elif data["live"] and mark is not None:
        differences = ("it runs, and is not defined any more: it will be gone when it stops",)
    return Machine(
        name=name,
        state=str(data["state"]),
        interfaces=interfaces,
        uuid=str(data.get("uuid", "")),
        kvm=tree.get("type") == "kvm",
        emulator=tree.findtext("devices/emulator", ""),
        autostart=bool(data["autostart"]),
        cluster="" if mark is None else mark.get("cluster", ""),
        agent=agent == "connected",
        age=ages.get(name),
        differences=differences,
    )


#: How a network forwards that plugs machines into links of the host (macvtap).
_DIRECT = ("bridge", "private", "vepa", "passthrough")

#: What of a machine's definition runs as it is written; of the rest libvirt fills in a lot when it starts.
_OF_MACHINE = ("memory", "vcpu", "devices/emulator", "devices/disk")


def _said_of(tree: ET.Element, tag: str) -> str:
    if tag == "devices/disk":
        return ", ".join(
            sorted(
                _attribute(each, "source", "file") or _attribute(each, "source", "dev") for each in tree.iterfind(tag)
            )
        )
    return " ".join(filter(None, (each.text for each in tree.iterfind(tag))))


def _nics(found: Iterable[tuple[str, str, str]]) -> str:
    return ", ".join(f"{mac} in {source or kind}" for kind, source, mac in found) or "no interface"


def _interface(element: ET.Element) -> Interface:
    kind = element.get("type", "")
    if _attribute(element, "source", "network"):
        kind = "network"  # libvirt says of what runs which bridge or link it found in that network
    return Interface(
        kind=kind,
        source=_attribute(element, "source", "dev" if kind == "direct" else kind),
        mac=_attribute(element, "mac", "address").lower(),
        tap=_attribute(element, "target", "dev"),
        plugged=_attribute(element, "link", "state") != "down",
    )


def _of_network(running: Interface, defined: Iterable[Interface], networks: Iterable[Network]) -> Interface:
    """An interface as it is defined, where it is what libvirt makes of one in a network that is others' bridge or link:
    then what runs need not name the network."""
    names = {each.source for each in defined if each.kind == "network" and each.mac == running.mac}
    for network in networks:
        bridged = running.kind == "bridge" and network.forward == "bridge" and running.source == network.bridge
        direct = running.kind == "direct" and network.forward in _DIRECT and running.source in network.devices
        if network.name in names and running.source and (bridged or direct):
            return replace(running, kind="network", source=network.name)
    return running


def _attribute(parent: ET.Element, path: str, name: str) -> str:
    found = parent.find(path)
    return "" if found is None else found.get(name, "")


# ---- the kernel -------------------------------------------------------------------------------------------------


def read_links(entries: Iterable[Mapping[str, Any]]) -> Iterator[Link]:
    """Understands `ip -json -details address show`."""
    for each in entries:
        flags = _words(each.get("flags", []))
        if "ifname" not in each:
            continue
        yield Link(
            name=_text(each["ifname"]),
            kind=_text(each.get("linkinfo", {}).get("info_kind", "loopback" if "LOOPBACK" in flags else "")),
            up="UP" in flags,
            carrier="LOWER_UP" in flags,
            mtu=int(each["mtu"]),
            mac=_text(each.get("address", "")),
            master=_text(each.get("master", "")),
            calls_iptables=bool(each.get("linkinfo", {}).get("info_data", {}).get("nf_call_iptables")),
            addresses=tuple(
                IPv4Interface(f"{address['local']}/{address['prefixlen']}")
                for address in each.get("addr_info", ())
                if address.get("family") == "inet" and "local" in address
            ),
        )


def read_routes(entries: Iterable[Mapping[str, Any]]) -> Iterator[Route]:
    """Understands `ip -json route show table all`: the ways to others, of every table."""
    for each in entries:
        if each.get("type", "unicast") != "unicast" or each.get("table") == "local":
            continue
        to = "0.0.0.0/0" if each["dst"] == "default" else each["dst"]
        for hop in each.get("nexthops") or [each]:
            yield Route(
                to=IPv4Network(to),
                via=IPv4Address(hop["gateway"]) if "gateway" in hop else None,
                dev=_text(hop.get("dev", "")),
                metric=int(each.get("metric", 0)),
                dead="dead" in hop.get("flags", ()),
                table=str(each.get("table", "main")),
            )


def _halves_joined(routes: Iterable[Route]) -> Iterator[Route]:
    """A VPN's pair of routes to either half of everything is its default route: 0.0.0.0/1 and 128.0.0.0/1."""
    found = list(routes)
    halves = {(each.dev, each.table, each.to): each for each in found if each.to in _HALVES and each.dev}
    for each in found:
        lower, upper = (halves.get((each.dev, each.table, half)) for half in _HALVES)
        if each.to not in _HALVES or lower is None or upper is None:
            yield each
        elif each is lower:
            # It goes before every default route, whatever their metrics.
            yield replace(lower, to=_EVERYTHING, metric=-1, dead=lower.dead or upper.dead)


def _neighbours(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """By link and address, the state that the kernel has them in."""
    return {
        (_text(each["dev"]), _text(each["dst"])): " ".join(_words(each.get("state", [])))
        for each in _list(entries)
        if "dst" in each
    }


def read_listener(line: str) -> Listener | None:
    """Understands a line of `ss -H -l -n -t -u -p`."""
    words = line.split()
    if len(words) < 5:
        return None
    address, _, port = words[4].rpartition(":")
    program = _PROGRAM.search(line)
    bare = address.replace("[", "").replace("]", "").partition("%")[0]
    return Listener(
        protocol=words[0],
        address="*" if bare in ("*", "0.0.0.0", "::") else bare,  # noqa: S104 - what others do
        port=int(port),
        program=program[1] if program else "",
        pid=int(program[2]) if program else None,
    )


def read_leases(text: str) -> tuple[Lease, ...]:
    """Understands what libvirt's helper of dnsmasq writes (JSON); an empty file has none. Raises ValueError."""
    try:
        return tuple(
            Lease(
                ip=IPv4Address(each["ip-address"]),
                mac=each.get("mac-address", "").lower(),
                hostname=_text(each.get("hostname", "")),
                client_id=each.get("client-id", "").lower(),
                expires=float(each.get("expiry-time", 0)),
            )
            for each in _list(json.loads(text or "[]"))
            if ":" not in each.get("ip-address", ":")
        )
    except NOT_UNDERSTOOD as error:
        raise ValueError(f"these are no leases: {error}") from error


def _leases(data: Mapping[str, Any]) -> tuple[Mapping[str, tuple[Lease, ...]], Mapping[str, str]]:
    """The leases by bridge, and by bridge why they are not known: a file that is spoilt takes no other along."""
    found: dict[str, tuple[Lease, ...]] = {}
    unread: dict[str, str] = {}
    for bridge, text in _texts(data).items():
        try:
            found[bridge] = read_leases(text)
        except ValueError as error:
            unread[bridge] = f"{_STATUS}/{bridge}.status is not understood: {error}"
    return found, unread


def _firewall(data: Mapping[str, Any]) -> Firewall:
    return Firewall(
        ruleset=json.dumps({"nftables": _list(data["ruleset"])}),
        unread=_words(data["unread"]),
        legacy=_texts(data["legacy"]),
        iptables=_texts(data["iptables"]),
        loaded=None if data["loaded"] is None else _text(data["loaded"]),
    )


def _memory(data: Mapping[str, Any]) -> tuple[Memory, _Hosts]:
    """What is remembered, and the reservations in our files by network."""
    hook, files = data["hook"], _texts(data.get("dnsmasq") or {})
    text = None if hook["text"] is None else _text(hook["text"])
    memory = Memory(_texts(data["files"]), text, _text(hook["mode"]), bool(data["unknown_to_libvirt"]))
    return memory, {name: tuple(_in_file(each)) for name, each in files.items()}


# ---- answers ----------------------------------------------------------------------------------------------------


def _replies(data: Mapping[str, Any]) -> dict[str, Reply]:
    return {name: Reply(bool(each["answered"]), float(each["ms"]), str(each["why"])) for name, each in data.items()}


def _answering(data: Mapping[str, Mapping[str, list[str]]]) -> dict[str, dict[IPv4Address, tuple[str, ...]]]:
    return {bridge: {IPv4Address(ip): _words(macs) for ip, macs in found.items()} for bridge, found in data.items()}


def read_guest(data: Mapping[str, Any]) -> Guest:
    """What a guest's agent said: its links, and the text of /proc/net/route and /etc/resolv.conf one after another."""
    if not data["answers"]:
        return Guest(answers=False, why=_text(data["why"]))
    addresses: dict[str, tuple[IPv4Interface, ...]] = {}
    for each in data["links"]:
        mac = each.get("hardware-address", "").lower()
        if _MAC.fullmatch(mac) and mac != "00:00:00:00:00:00":
            addresses[mac] = addresses.get(mac, ()) + tuple(
                IPv4Interface(f"{address['ip-address']}/{address['prefix']}")
                for address in each.get("ip-addresses", ())
                if address.get("ip-address-type") == "ipv4"
            )
    inside = data["inside"]
    if inside is None:
        return Guest(answers=True, addresses=addresses)
    lines = [line.split() for line in inside.splitlines()]
    return Guest(
        answers=True,
        addresses=addresses,
        # Iface Destination Gateway Flags … Mask …, in hexadecimal of the machine's byte order, which is x86's
        routers=tuple(
            IPv4Address(int.from_bytes(bytes.fromhex(words[2]), "little"))
            for words in lines
            if len(words) >= 8 and words[1] == "00000000" and words[7] == "00000000"
        ),
        resolvers=tuple(words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1),
    )


def networks_of(capture: Capture) -> tuple[Network, ...]:
    """The networks in a capture that is not whole yet: whom to ask. Raises HostError where they are not understood."""
    try:
        found = tuple(map(read_network, capture.get(Part.NETWORKS) or ()))
    except NOT_UNDERSTOOD as error:
        raise HostError("what libvirt says of its networks is not understood", why=repr(error)) from error
    try:
        _, hosts = _memory(capture.get(Part.MEMORY) or {})
    except NOT_UNDERSTOOD:  # told by its own part
        hosts = _NO_MEMORY[1]
    return tuple(_with_files(each, hosts) for each in found)
