"""Every cause that the doctor knows: its identifier, where it is in the chain, and what it explains.

Identifiers are stable: programs and pages (docs/doctor/IDENTIFIER.md) rely on them. A test holds the table, the checks
and the pages together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum


class Layer(IntEnum):
    """The chain that an answer depends on, from what everything stands on to what stands on everything."""

    HOST = 0
    LIBVIRT = 1
    BRIDGE = 2
    DNSMASQ = 3
    FIREWALL = 4
    UPLINK = 5
    MACHINE = 6


@dataclass(frozen=True, slots=True)
class Known:
    """One cause. `title` says it in a line; `explains` are the identifiers that it makes appear where it is; with
    `:kind` only of drifted resources of that kind, wherever they are."""

    layer: Layer
    title: str
    explains: frozenset[str] = frozenset()


_NO_LEASE = ("vm-no-lease", "vm-guest-misconfigured", "lease-mismatch")
_UNPLUGGED = ("vm-tap-detached", "vm-link-down", "mtu-mismatch", *_NO_LEASE)
_SERVED = ("dnsmasq-dead", "dnsmasq-unresponsive", "resolver-route-missing", *_NO_LEASE)
_BRIDGED = ("bridge-down", "bridge-address-missing", "rp-filter", "config-drift", *_UNPLUGGED, *_SERVED)


#: What is computed from all clusters of a host, and differs where one of them is gone.
_GONE = tuple(f"config-drift:{each}" for each in ("servers", "network", "route", "passage", "sysctl"))


def _known(layer: Layer, title: str, *explains: str) -> Known:
    return Known(layer, title, frozenset(explains))


def _without_itself(table: Mapping[str, Known]) -> Mapping[str, Known]:
    return {name: replace(known, explains=known.explains - {name}) for name, known in table.items()}


_TABLE: Mapping[str, Known] = {
    # host
    "libvirtd-down": _known(Layer.HOST, "no libvirt daemon answers", "network-undefined"),
    "permission-denied": _known(Layer.HOST, "this user may not use libvirt"),
    "kvm-unusable": _known(
        Layer.HOST, "machines want KVM, and this host cannot run guests under it", "vm-not-running", *_NO_LEASE
    ),
    "qemu-missing": _known(
        Layer.HOST, "the emulator that machines name is not there", "vm-not-running", "kvm-unusable"
    ),
    "dnsmasq-missing": _known(
        Layer.HOST, "the program dnsmasq is not there", "network-inactive", "bridge-missing", "vm-not-running", *_SERVED
    ),
    "ip-forward-off": _known(Layer.HOST, "this host does not forward packets", "config-drift:sysctl"),
    "bridge-netfilter": _known(Layer.HOST, "the host's firewall drops what passes within a bridge"),
    "rp-filter": _known(
        Layer.HOST, "strict reverse path filtering drops packets", "dns-upstream-dead", "uplink-missing"
    ),
    "conntrack-full": _known(
        Layer.HOST,
        "the table of connections is full",
        "dns-upstream-dead",
        "dnsmasq-unresponsive",
        "consul-unreachable",
        "resolver-route-missing",
    ),
    "subnet-overlap": _known(
        Layer.HOST,
        "a network's addresses are also somewhere else",
        "network-inactive",
        "rp-filter",
        "uplink-missing",
        "dns-upstream-dead",
        "nat-missing",
    ),
    "port-53-taken": _known(
        Layer.HOST,
        "another program has the port of a network's DNS",
        "network-inactive",
        "bridge-missing",
        "vm-not-running",
        "dns-loop",
        *_SERVED,
    ),
    "outdated-package": _known(Layer.HOST, "a program has faults that newer versions of it do not have"),
    # libvirt
    "network-undefined": _known(
        Layer.LIBVIRT, "a network that is needed is not defined", "vm-not-running", *_GONE, *_BRIDGED
    ),
    "bridge-not-ours": _known(
        Layer.LIBVIRT,
        "the network's bridge is a link that libvirt did not make",
        "network-inactive",
        "subnet-overlap",
        "bridge-missing",
        *_BRIDGED,
    ),
    "network-inactive": _known(
        Layer.LIBVIRT,
        "a network that is needed is not active",
        "bridge-missing",
        "vm-not-running",
        "hook-missing",
        *_BRIDGED,
    ),
    "hook-missing": _known(Layer.LIBVIRT, "libvirt's hook that restores the rules is not there", "config-drift"),
    "config-drift": _known(Layer.LIBVIRT, "what runs is not what is defined"),
    # bridge
    "bridge-missing": _known(
        Layer.BRIDGE, "an active network's bridge is gone", "subnet-overlap", "consul-unreachable", *_BRIDGED
    ),
    "bridge-down": _known(Layer.BRIDGE, "a bridge is down", *_BRIDGED),
    "bridge-address-missing": _known(
        Layer.BRIDGE, "a bridge lacks the gateway's address", "config-drift", "rp-filter", *_SERVED
    ),
    # dnsmasq
    "dnsmasq-dead": _known(Layer.DNSMASQ, "a network's dnsmasq does not run", "config-drift", *_SERVED),
    "dnsmasq-unresponsive": _known(Layer.DNSMASQ, "a network's dnsmasq runs and does not answer", *_SERVED),
    "dns-loop": _known(Layer.DNSMASQ, "DNS servers ask each other in a circle", "dns-upstream-dead"),
    "dns-gateway-not-listed": _known(Layer.DNSMASQ, "nodes are told DNS servers that do not know the cluster's names"),
    "dhcp-range-outside-subnet": _known(
        Layer.DNSMASQ, "DHCP addresses lie outside the network's subnet", "dhcp-pool-exhausted", *_NO_LEASE
    ),
    "dhcp-pool-exhausted": _known(Layer.DNSMASQ, "DHCP has no free address left", *_NO_LEASE),
    "rogue-dhcp": _known(Layer.DNSMASQ, "another DHCP server answers on the bridge", "duplicate-address", *_NO_LEASE),
    "duplicate-mac": _known(
        Layer.DNSMASQ, "two machines of a network have one MAC", "duplicate-address", "duplicate-client-id", *_NO_LEASE
    ),
    "duplicate-client-id": _known(
        Layer.DNSMASQ, "two machines have one DHCP client identifier", "duplicate-address", *_NO_LEASE
    ),
    "duplicate-address": _known(Layer.DNSMASQ, "two machines answer at one address", "vm-guest-misconfigured"),
    "stale-lease": _known(Layer.DNSMASQ, "a lease of nobody holds an address that is somebody's", *_NO_LEASE),
    "lease-mismatch": _known(
        Layer.DNSMASQ, "a machine holds another address than is reserved for it", "vm-guest-misconfigured"
    ),
    "resolver-route-missing": _known(
        Layer.DNSMASQ, "the host's resolver does not know a cluster's names", "config-drift"
    ),
    # firewall
    "firewall-rules-missing": _known(
        Layer.FIREWALL,
        "firewall rules that belong to networks are gone",
        "nat-missing",
        "isolation-open",
        "config-drift",
    ),
    "forward-drop-policy": _known(
        Layer.FIREWALL,
        "another firewall drops what networks forward",
        "bridge-netfilter",
        "dnsmasq-unresponsive",
        "config-drift:passage",
    ),
    "nat-missing": _known(Layer.FIREWALL, "what leaves a network keeps its private address", "config-drift"),
    "isolation-open": _known(Layer.FIREWALL, "clusters that shall be apart are not", "config-drift"),
    # uplink
    "uplink-missing": _known(Layer.UPLINK, "this host has no way out", "dns-upstream-dead", "consul-unreachable"),
    "mtu-mismatch": _known(Layer.UPLINK, "links on one way take frames of different sizes"),
    "dns-upstream-dead": _known(Layer.UPLINK, "the DNS servers that a gateway asks do not answer"),
    "consul-unreachable": _known(Layer.UPLINK, "the Consul agent of a cluster does not answer", "config-drift"),
    # machine
    "vm-undefined": _known(Layer.MACHINE, "a machine that was asked for is not defined"),
    "vm-not-running": _known(Layer.MACHINE, "a machine does not run", "config-drift", *_UNPLUGGED),
    "vm-wrong-network": _known(Layer.MACHINE, "a machine is plugged into another network", "config-drift", *_UNPLUGGED),
    "vm-tap-detached": _known(Layer.MACHINE, "a machine's tap is not on its bridge", "config-drift", *_NO_LEASE),
    "vm-link-down": _known(Layer.MACHINE, "a machine's link is down", *_NO_LEASE),
    "vm-no-lease": _known(Layer.MACHINE, "a running machine has no address", "vm-guest-misconfigured"),
    "vm-guest-misconfigured": _known(Layer.MACHINE, "inside, a machine is configured otherwise"),
}

CATALOGUE = _without_itself(_TABLE)
