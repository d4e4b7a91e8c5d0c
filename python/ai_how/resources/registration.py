"""A node's registration in Consul (Consul's HTTP API, agent/service)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import ClassVar

from ai_how.resources.base import Impact, Kind, ResourceId, managed
from ai_how.spec.policy import Check, Discovery


@dataclass(frozen=True, slots=True)
class Registration:
    """Node `node` of `cluster` as an instance of service `service` at `ip`, looked after by `check`.

    `discovery` says which agent it is registered with; `network` is the cluster's, whose mark keeps that.
    """

    kind: ClassVar[Kind] = Kind.REGISTRATION

    node: str
    cluster: str
    network: str
    discovery: Discovery
    service: str = managed(Impact.LIVE)
    ip: IPv4Address = managed(Impact.LIVE)
    tags: tuple[str, ...] = managed(Impact.LIVE)
    check: Check = managed(Impact.LIVE)

    @property
    def key(self) -> str:
        return self.node

    @property
    def up(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return (ResourceId(Kind.NETWORK, self.network),)
