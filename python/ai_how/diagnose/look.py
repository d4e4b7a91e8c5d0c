"""Reads the facts. Nothing is changed; what cannot be read is said, never guessed."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import xml.etree.ElementTree as ET  # the bare interpreter has no lxml; what is read comes from libvirt itself
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from ai_how.diagnose.facts import Facts, Interface, Lease, Link, Machine, Network, Server
from ai_how.errors import AiHowError
from ai_how.host.libvirt import Libvirt

#: How many seconds to wait for a gateway's answer to a DNS question, and how often to ask. A healthy one takes under a
#: millisecond, but a busy host may be late.
DNS_PATIENCE, DNS_TRIES = 0.7, 3

_IFF_UP = 0x1  # linux/if.h
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B  # linux/sockios.h
_STATES = ("no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended")


def look(uri: str) -> Facts:
    """Read everything: the kernel's links, the dnsmasq processes, and libvirt at `uri`."""
    links, servers = read_links(), read_servers()
    try:
        with Libvirt(uri) as host:
            networks, machines = _networks(host), _machines(host)
    except AiHowError as problem:
        return Facts(links, servers, problem=problem)
    return Facts(links, servers, networks, machines)


# ---- the kernel -------------------------------------------------------------------------------------------------


def read_links(root: Path = Path("/sys/class/net")) -> dict[str, Link]:
    """The network devices of our network namespace, by name."""
    found: dict[str, Link] = {}
    for device in sorted(root.iterdir()):
        try:
            flags = int((device / "flags").read_text(), 16)
        except (OSError, ValueError):
            continue  # no device (bonding_masters), or gone while we looked
        master = device / "master"
        found[device.name] = Link(
            name=device.name,
            up=bool(flags & _IFF_UP),
            bridge=(device / "bridge").is_dir(),
            master=master.resolve().name if master.exists() else None,
            address=_address(device.name),
        )
    return found


def _address(name: str) -> IPv4Interface | None:
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        try:
            address = fcntl.ioctl(ask, _SIOCGIFADDR, request)[20:24]
            mask = fcntl.ioctl(ask, _SIOCGIFNETMASK, request)[20:24]
        except OSError:
            return None
    return IPv4Interface(f"{socket.inet_ntoa(address)}/{socket.inet_ntoa(mask)}")


def read_servers(root: Path = Path("/proc")) -> tuple[Server, ...]:
    """The dnsmasq processes of libvirt networks that live in our network namespace."""
    ours = _namespace(root / "self")
    found = []
    for process in root.iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            state = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue  # it ended while we looked
        config = next((re.search(r"dnsmasq/(.+)\.conf$", word) for word in words if "--conf-file=" in word), None)
        if config and Path(words[0]).name == "dnsmasq" and _namespace(process) in (ours, None):
            found.append(Server(int(process.name), config[1], stopped=state in ("T", "t")))
    return tuple(sorted(found, key=lambda server: server.pid))


def _namespace(process: Path) -> str | None:
    try:
        return str((process / "ns" / "net").readlink())
    except OSError:
        return None  # only root may read those of others


# ---- libvirt ----------------------------------------------------------------------------------------------------


def _networks(host: Libvirt) -> tuple[Network, ...]:
    with host.doing("cannot list the networks"):
        handles = host.connection.listAllNetworks(0)
    with ThreadPoolExecutor(max_workers=16) as pool:
        found = pool.map(lambda handle: _network(host, handle), handles)
    return tuple(sorted((network for network in found if network), key=lambda network: network.name))


def _network(host: Libvirt, handle: Any) -> Network | None:
    try:
        tree = ET.fromstring(handle.XMLDesc(0))  # noqa: S314 - libvirt's own
        active = bool(handle.isActive())
        leases = handle.DHCPLeases(None, 0) if active else []
        autostart = bool(handle.autostart())
    except host.api.libvirtError as error:
        if error.get_error_code() == host.api.VIR_ERR_NO_NETWORK:
            return None  # removed while we looked
        with host.doing(f"cannot read the network {handle.name()}"):
            raise
    ip = next((ip for ip in tree.findall("ip") if ip.get("family", "ipv4") == "ipv4" and ip.get("address")), None)
    gateway = None
    if ip is not None:
        gateway = IPv4Interface(f"{ip.get('address')}/{ip.get('prefix') or ip.get('netmask') or 24}")
    forward, dns, bridge = tree.find("forward"), tree.find("dns"), tree.find("bridge")
    has_dns = gateway is not None and (dns is None or dns.get("enable") != "no")
    return Network(
        name=tree.findtext("name", ""),
        active=active,
        autostart=autostart,
        bridge=bridge.get("name", "") if bridge is not None else "",
        forward=forward.get("mode", "nat") if forward is not None else "none",
        gateway=gateway,
        dhcp_ranges=tuple((r.get("start", ""), r.get("end", "")) for r in tree.iterfind("ip/dhcp/range")),
        dns=has_dns,
        leases=tuple(_lease(lease) for lease in leases),
        answers_dns=answers(str(gateway.ip)) if active and has_dns and gateway else None,
    )


def _lease(lease: dict[str, Any]) -> Lease:
    return Lease(
        mac=(lease["mac"] or "").lower(),
        ip=lease["ipaddr"],
        hostname=lease["hostname"] or "",
        expires=datetime.fromtimestamp(lease["expirytime"], UTC),
    )


def _machines(host: Libvirt) -> tuple[Machine, ...]:
    with host.doing("cannot list the machines"):
        handles = host.connection.listAllDomains(0)
    found = []
    for handle in handles:
        try:
            tree, state = ET.fromstring(handle.XMLDesc(0)), handle.state()[0]  # noqa: S314 - libvirt's own
        except host.api.libvirtError as error:
            if error.get_error_code() == host.api.VIR_ERR_NO_DOMAIN:
                continue  # removed while we looked
            with host.doing(f"cannot read the machine {handle.name()}"):
                raise
        interfaces = tuple(_interface(element) for element in tree.iterfind("devices/interface"))
        found.append(Machine(tree.findtext("name", ""), _STATES[state], interfaces))
    return tuple(sorted(found, key=lambda machine: machine.name))


def _interface(element: ET.Element) -> Interface:
    kind, source = element.get("type", ""), element.find("source")
    mac, target = element.find("mac"), element.find("target")
    return Interface(
        kind=kind,
        source=source.get(kind, "") if source is not None else "",
        mac=(mac.get("address", "") if mac is not None else "").lower(),
        tap=target.get("dev") if target is not None else None,
    )


def answers(server: str) -> bool:
    """True where a DNS server answers. Its question (version.bind, class CHAOS) is never forwarded to others."""
    question = b"\x07version\x04bind\x00" + struct.pack("!HH", 16, 3)
    query = struct.pack("!6H", os.getpid() & 0xFFFF, 0, 1, 0, 0, 0) + question
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.settimeout(DNS_PATIENCE)
        for _ in range(DNS_TRIES):
            try:
                ask.connect((server, 53))
                ask.send(query)
                if ask.recv(512)[:2] == query[:2]:
                    return True
            except OSError:
                continue
    return False
