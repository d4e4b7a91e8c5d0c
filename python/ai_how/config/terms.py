"""The closed choices and small types a configuration is written in; nothing heavy is imported here."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

#: A MAC address in lower case with colons, e.g. "52:54:00:12:34:01".
MacAddress = NewType("MacAddress", str)


class DnsMode(StrEnum):
    """How a cluster's names and paths relate to other clusters (docs/architecture.md, "DNS modes")."""

    ISOLATED = "isolated"
    SHARED_DNS = "shared_dns"
    ROUTED = "routed"
    SERVICE_DISCOVERY = "service_discovery"


class Accelerator(StrEnum):
    """What runs the guests' instructions; `auto` takes KVM where it really works, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Protocol(StrEnum):
    """The transport protocols that ports belong to."""

    TCP = "tcp"
    UDP = "udp"


class Egress(StrEnum):
    """Whether nodes may open connections to the outside where nothing else is said."""

    ALLOW = "allow"
    DENY = "deny"


class HostResolver(StrEnum):
    """What resolves names on the host, and is told of the clusters' zones; `none`: nobody is told."""

    AUTO = "auto"
    SYSTEMD_RESOLVED = "systemd-resolved"
    NETWORKMANAGER = "networkmanager"
    DNSMASQ = "dnsmasq"
    NONE = "none"


class AddressChoice(StrEnum):
    """The words that may stand where an address or subnet would."""

    DHCP = "DHCP"
    AUTO = "auto"
