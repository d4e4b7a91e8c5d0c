"""A host as the doctor's tests want it: facts made by hand, and a capture of a host with one healthy network."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from ai_how.diagnose.capture import Capture
from ai_how.diagnose.checks.base import CHECKS
from ai_how.diagnose.facts import (
    Facts,
    Guest,
    Interface,
    Lease,
    Link,
    Machine,
    Network,
    Part,
    Reply,
    Reservation,
    Route,
    Server,
)
from ai_how.diagnose.finding import Answer, Finding

NOW = 1_700_000_000.0
MAC = "52:54:00:00:00:01"
OTHER_MAC = "52:54:00:00:00:02"
BRIDGE_MAC = "52:54:00:00:00:fe"
SILENT = Reply(answered=False, why="no answer in 2.4 s")
ANSWERED = Reply(answered=True, ms=1.0)


def network(name: str = "default", **more: Any) -> Network:
    fields: dict[str, Any] = {
        "active": True,
        "persistent": True,
        "autostart": False,
        "bridge": "virbr0",
        "mac": BRIDGE_MAC,
        "mtu": None,
        "forward": "nat",
        "gateway": IPv4Interface("192.168.122.1/24"),
        "ranges": (span("192.168.122.10", "192.168.122.13"),),
        "reservations": (),
        "dns": True,
        "forwarders": (),
        "options": (),
    }
    return Network(name=name, **{**fields, **more})


def span(start: str, end: str) -> tuple[IPv4Address, IPv4Address]:
    return IPv4Address(start), IPv4Address(end)


def nic(source: str = "default", mac: str = MAC, tap: str = "vnet0", **more: Any) -> Interface:
    return Interface(**{"kind": "network", "source": source, "mac": mac, "tap": tap, **more})


def machine(name: str = "node", *interfaces: Interface, state: str = "running", **more: Any) -> Machine:
    return Machine(name, state, interfaces or (nic(),), **more)


def link(name: str = "virbr0", kind: str = "bridge", **more: Any) -> Link:
    return Link(**{"name": name, "kind": kind, "up": True, "carrier": True, "mtu": 1500, "mac": "", **more})


def links(*several: Link) -> dict[str, Link]:
    return {each.name: each for each in several}


def route(to: str = "0.0.0.0/0", dev: str = "eth0", via: str = "10.0.0.1", **more: Any) -> Route:
    return Route(IPv4Network(to), IPv4Address(via) if via else None, dev, **more)


def lease(ip: str = "192.168.122.10", mac: str = MAC, left: float = 600.0, client_id: str = "") -> Lease:
    return Lease(IPv4Address(ip), mac, "", client_id, NOW + left if left else 0.0)


def reservation(ip: str = "192.168.122.10", mac: str = MAC, name: str = "node") -> Reservation:
    return Reservation(IPv4Address(ip), mac, name)


def guest(*addresses: str, mac: str = MAC, routers: tuple[str, ...] | None = None, resolvers: Any = None) -> Guest:
    return Guest(
        answers=True,
        addresses={mac: tuple(map(IPv4Interface, addresses))},
        routers=None if routers is None else tuple(map(IPv4Address, routers)),
        resolvers=resolvers,
    )


def facts(*networks: Network, **more: Any) -> Facts:
    return Facts(networks=networks, **{"now": NOW, **more})


def look(identifier: str, known: Facts) -> list[Finding]:
    """What all checks for a cause say, but that all is well."""
    found = [each for check in CHECKS if check.identifier == identifier for each in check.look(known)]
    return [each for each in found if each.answer is not Answer.OK]


def answers(identifier: str, known: Facts) -> list[Answer]:
    return [each.answer for each in look(identifier, known)]


def server(name: str = "default", pid: int = 100, *, stopped: bool = False) -> Server:
    return Server(pid, name, stopped)


NETWORK_XML = f"""<network>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <mac address='{BRIDGE_MAC}'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'/>
      <host mac='52:54:00:00:00:0A' name='fixed' ip='192.168.122.9'/>
    </dhcp>
  </ip>
</network>"""

MACHINE_XML = f"""<domain type='qemu'>
  <name>node</name>
  <memory unit='KiB'>262144</memory>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <interface type='network'>
      <mac address='{MAC}'/>
      <source network='default'/>
      <target dev='vnet0'/>
    </interface>
  </devices>
</domain>"""


def _address(ip: str, prefix: int) -> list[dict[str, Any]]:
    return [{"family": "inet", "local": ip, "prefixlen": prefix}, {"family": "inet6", "local": "fe80::1"}]


_UP = ["BROADCAST", "UP", "LOWER_UP"]
_RULES = [
    {"metainfo": {"version": "1.0.6"}},
    {"table": {"family": "inet", "name": "site"}},
    {
        "chain": {
            "family": "inet", "table": "site", "name": "forward",
            "type": "filter", "hook": "forward", "prio": 0, "policy": "accept",
        }
    },
    {
        "rule": {
            "family": "inet", "table": "site", "chain": "forward",
            "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "virbr0"}},
                {"accept": None},
            ],
        }
    },
]  # fmt: skip

_PARTS: dict[Part, Any] = {
    Part.HOST: {
        "now": NOW, "root": True, "user": 0, "groups": ["root"], "daemon": 10,
        "programs": {"dnsmasq": "/usr/sbin/dnsmasq", "libvirtd": "/usr/sbin/libvirtd"},
        "versions": {"dnsmasq": "2.90", "kernel": "6.1"}, "kvm_device": "", "cpu_flags": ["vmx"],
    },
    Part.LIBVIRT: {
        "uri": "qemu:///system", "via": "bindings", "version": "9.0.0", "offers_kvm": True, "emulators": {},
    },
    Part.NETWORKS: [
        {
            "name": "default", "active": True, "persistent": True, "autostart": True,
            "live": NETWORK_XML, "saved": NETWORK_XML,
        }
    ],
    Part.MACHINES: [
        {
            "name": "node", "uuid": "u", "state": "running", "autostart": False,
            "live": MACHINE_XML, "saved": MACHINE_XML,
        }
    ],
    Part.LINKS: [
        {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536, "addr_info": _address("127.0.0.1", 8)},
        {"ifname": "eth0", "flags": _UP, "mtu": 1500, "address": "aa:bb:cc:00:00:01",
         "addr_info": _address("10.0.0.5", 24)},
        {"ifname": "virbr0", "flags": _UP, "mtu": 1500, "address": BRIDGE_MAC,
         "linkinfo": {"info_kind": "bridge", "info_data": {"nf_call_iptables": 0}},
         "addr_info": _address("192.168.122.1", 24)},
        {"ifname": "vnet0", "flags": _UP, "mtu": 1500, "master": "virbr0", "linkinfo": {"info_kind": "tun"}},
        {},
    ],
    Part.ROUTES: [
        {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0", "flags": []},
        {"dst": "10.0.0.0/24", "dev": "eth0", "scope": "link", "flags": []},
        {"dst": "192.168.122.0/24", "dev": "virbr0", "flags": []},
        {"type": "local", "dst": "10.0.0.5", "dev": "eth0", "table": "local", "flags": []},
    ],
    Part.NEIGHBOURS: [{"dst": "10.0.0.1", "dev": "eth0", "lladdr": "aa:bb:cc:00:00:02", "state": ["REACHABLE"]}],
    Part.SETTINGS: {
        "net/ipv4/ip_forward": "1", "net/netfilter/nf_conntrack_count": "5", "net/netfilter/nf_conntrack_max": "1000",
        "net/ipv4/conf/all/rp_filter": "0", "rp_filter/drops": "0",
    },
    Part.PROCESSES: [
        {"pid": 100, "network": "default", "stopped": False},
        {"pid": 200, "machine": "node", "age": 100.0},
    ],
    Part.LISTENERS: [
        'udp UNCONN 0 0 192.168.122.1:53 0.0.0.0:* users:(("dnsmasq",pid=100,fd=5))',
    ],
    Part.LEASES: {
        "virbr0": f'[{{"ip-address": "192.168.122.20", "mac-address": "{MAC}", "expiry-time": {int(NOW) + 600}}}]',
    },
    Part.FIREWALL: {"ruleset": _RULES, "unread": [], "legacy": {}, "iptables": {}, "loaded": None},
    Part.RESOLVER: {"servers": ["10.0.0.1"], "asks": []},
    Part.RESOLVES: {},
    Part.MEMORY: {"files": {}, "hook": {"text": None, "mode": ""}, "unknown_to_libvirt": False, "dnsmasq": {}},
    Part.DRIFT: {"found": [], "unseen": []},
    Part.STATE: [],
    Part.NAMES: {"default": {"answered": True, "ms": 0.5, "why": ""}},
    Part.UPSTREAM: {"10.0.0.1": {"answered": True, "ms": 1.5, "why": ""}},
    Part.ANSWERING: {"virbr0": {"192.168.122.20": [MAC]}},
    Part.SERVERS: {"default": []},
    Part.CONSUL: {},
    Part.GUESTS: {
        "node": {
            "answers": True,
            "links": [
                {
                    "name": "eth0", "hardware-address": MAC,
                    "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "192.168.122.20", "prefix": 24}],
                }
            ],
            "inside": (
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
                "eth0\t00000000\t017AA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
                "nameserver 192.168.122.1\n"
            ),
        }
    },
    Part.LOGS: {"/var/log/libvirt/libvirtd.log": "started\n"},
}  # fmt: skip


def parts(**changed: Any) -> dict[Part, Any]:
    """The parts of the capture, with others in place of some (by their value)."""
    found = copy.deepcopy(_PARTS)
    return {**found, **{Part(name): data for name, data in changed.items()}}


def capture(**changed: Any) -> Capture:
    """A host with one network, one machine, and firewall rules that libvirt's are missing from."""
    return Capture(parts(**changed))
