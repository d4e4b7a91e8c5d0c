"""A node: one machine of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from ai_how.config.terms import MacAddress

__all__ = ["MacAddress", "Node", "Role"]


class Role(StrEnum):
    """What a node is for."""

    CONTROLLER = "controller"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. `ip` is its reserved address, None where it takes whatever DHCP gives.

    `memory_mib` is in MiB, `disk_bytes` in bytes.
    """

    name: str
    role: Role
    vcpus: int
    memory_mib: int
    disk_bytes: int
    mac: MacAddress
    ip: IPv4Address | None
