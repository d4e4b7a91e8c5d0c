"""A cluster's policy as text, as its network's mark keeps it: the host tells by itself what each cluster allows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ai_how.config.terms import Egress, HostResolver, Protocol
from ai_how.resources.registration import dns_address
from ai_how.spec.policy import Check, Discovery, Exposure, Firewall, Policy, Port, Route, Tls


def write_policy(policy: Policy) -> str:
    """The policy as one line of JSON."""
    return json.dumps(asdict(policy), default=str, separators=(",", ":"))


def read_policy(text: str | None) -> Policy:
    """The policy that `text` says; the default one where there is none, or it cannot be understood.

    A network of ours without a readable policy was made by an older version, or edited: the next `up` writes it anew.
    """
    try:
        return _policy(json.loads(text)) if text else Policy()
    except (ValueError, TypeError, KeyError, AttributeError):
        return Policy()


def _policy(data: Mapping[str, Any]) -> Policy:
    discovery = data["discovery"]
    return Policy(
        nat=bool(data["nat"]),
        routes=tuple(Route(IPv4Network(each["to"]), _address(each["via"])) for each in data["routes"]),
        firewall=_firewall(data["firewall"]),
        discovery=None if discovery is None else _discovery(discovery),
        host_resolver=HostResolver(data["host_resolver"]),
    )


def _firewall(data: Mapping[str, Any]) -> Firewall:
    return Firewall(
        enabled=bool(data["enabled"]),
        allow_host_ports=tuple(read_port(each) for each in data["allow_host_ports"]),
        block_networks=read_networks(data["block_networks"]),
        egress=Egress(data["egress"]),
        allow_networks=read_networks(data["allow_networks"]),
        expose=tuple(read_exposure(each) for each in data["expose"]),
        allow_from=read_networks(data["allow_from"]),
    )


def _discovery(data: Mapping[str, Any]) -> Discovery:
    tls = data["tls"]
    found = Discovery(
        service_name=_text(data["service_name"]),
        address=_text(data["address"]),
        dns_port=_number(data["dns_port"]),
        datacenter=_text_or_none(data["datacenter"]),
        token_file=_text_or_none(data["token_file"]),
        tls=None if tls is None else Tls(**{name: _text_or_none(each) for name, each in tls.items()}),
        tags=tuple(_text(each) for each in data["tags"]),
        check=Check(**{name: int(each) for name, each in data["check"].items()}),
        required=bool(data["required"]),
    )
    # Both raise ValueError where it is no address of an agent.
    dns_address(found)
    _number(found.address.rpartition(":")[2])
    return found


def read_exposure(data: Mapping[str, Any]) -> Exposure:
    """What JSON has of an exposure. Raises ValueError, TypeError or KeyError where it is something else."""
    node_port = _number(data["node_port"])
    return Exposure(read_port(data["host"]), str(data["node"]), IPv4Address(data["ip"]), node_port)


def read_port(data: Mapping[str, Any]) -> Port:
    """The same of a port."""
    return Port(Protocol(data["protocol"]), _number(data["number"]))


def _number(value: Any) -> int:
    """The number of a port."""
    number = int(value)
    if not 1 <= number <= 65535:
        raise ValueError(number)
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def read_networks(data: Iterable[str]) -> tuple[IPv4Network, ...]:
    """The same of networks."""
    return tuple(IPv4Network(each) for each in data)


def _address(text: str | None) -> IPv4Address | None:
    return None if text is None else IPv4Address(text)
