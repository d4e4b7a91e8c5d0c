"""A node's registration in Consul (Consul's HTTP API, agent/service and agent/check)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, ClassVar

from ai_how.resources.base import Impact, Kind, Plain, ResourceId, managed
from ai_how.spec.policy import Check, Discovery

#: Consul's own DNS domain; agents can be configured otherwise, which we do not support.
ZONE = "consul"

#: Our mark in a service's Meta: whose it is, and what of the check an agent does not tell again.
CLUSTER, NODE, INTERVAL, TIMEOUT = "ai-how-cluster", "ai-how-node", "ai-how-interval", "ai-how-timeout"

#: What stands for a check that somebody took away.
NO_CHECK = Check(port=0, interval=0, timeout=0)


@dataclass(frozen=True, slots=True)
class Registration(Plain):
    """Node `node` of `cluster` as an instance of service `service` at `ip`, looked after by `check`.

    `discovery` says how its agent is reached, and `agent` which one that is; `network` is the cluster's, whose mark
    keeps that. Another way to the same agent, such as another token, makes no difference to what is registered.
    """

    kind: ClassVar[Kind] = Kind.REGISTRATION

    node: str
    cluster: str
    network: str
    discovery: Discovery = managed(Impact.LIVE, compare=False)
    service: str = managed(Impact.LIVE)
    ip: IPv4Address = managed(Impact.LIVE)
    tags: tuple[str, ...] = managed(Impact.LIVE)
    check: Check = managed(Impact.LIVE)
    agent: str = managed(Impact.LIVE, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "agent", self.discovery.address)

    def __str__(self) -> str:
        return f"{self.node} as {self.service}.service.{ZONE} in Consul at {self.discovery.address}"

    @property
    def key(self) -> str:
        return self.node

    @property
    def id(self) -> str:
        """What names it within its agent."""
        return service_id(self.cluster, self.node)

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return (ResourceId(Kind.NETWORK, self.network),)

    def to_json(self) -> dict[str, Any]:
        """What an agent takes to register it. It counts as unhealthy until its check has passed once."""
        where = f"{self.ip}:{self.check.port}"
        return {
            "ID": self.id,
            "Name": self.service,
            "Address": str(self.ip),
            "Port": self.check.port,
            "Tags": list(self.tags),
            "Meta": {
                CLUSTER: self.cluster,
                NODE: self.node,
                INTERVAL: str(self.check.interval),
                TIMEOUT: str(self.check.timeout),
            },
            "Check": {
                "CheckID": self.id,
                "Name": f"{self.node} takes TCP connections at {where}",
                "TCP": where,
                "Interval": f"{self.check.interval}s",
                "Timeout": f"{self.check.timeout}s",
            },
        }


def service_id(cluster: str, node: str) -> str:
    """What names a node's registration within an agent; the same at every time."""
    return f"ai-how:{cluster}:{node}"


def is_of(cluster: str, service: Mapping[str, Any]) -> bool:
    """Whether an agent's service carries our mark, for `cluster`."""
    return bool((service.get("Meta") or {}).get(CLUSTER) == cluster)


def read_registrations(
    services: Mapping[str, Any], checks: Mapping[str, Any], *, cluster: str, network: str, discovery: Discovery
) -> list[Registration]:
    """Those of `cluster` among an agent's services; `checks` are all of the agent's checks."""
    return [
        Registration(
            node=service["Meta"].get(NODE, ""),
            cluster=cluster,
            network=network,
            discovery=discovery,
            service=service.get("Service", ""),
            ip=_address(service.get("Address", "")),
            tags=tuple(service.get("Tags") or ()),
            check=_check(service) if service.get("ID") in checks else NO_CHECK,
        )
        for service in services.values()
        if is_of(cluster, service)
    ]


def dns_address(discovery: Discovery) -> IPv4Address:
    """Where Consul answers DNS: the host of its URL, of which spec/ has seen to it that it is an IPv4 address or
    localhost, with a port."""
    host = discovery.address.partition("://")[2].partition(":")[0]
    return IPv4Address("127.0.0.1" if host == "localhost" else host)


def _check(service: Mapping[str, Any]) -> Check:
    meta = service["Meta"]
    try:
        return Check(int(service.get("Port", 0)), int(meta.get(INTERVAL, 0)), int(meta.get(TIMEOUT, 0)))
    except ValueError:
        return NO_CHECK


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError:  # edited: it differs from every address of ours
        return IPv4Address(0)
