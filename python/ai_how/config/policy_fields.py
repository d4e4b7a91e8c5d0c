"""The types of the fields of firewall, routes and service discovery; config/fields.py has all others and says how."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from ai_how.config.fields import (
    choice,
    enum_schema,
    path_reader,
    read_ipv4,
    read_text,
    show,
    typed,
    whole,
    wrong,
)
from ai_how.config.terms import Egress, HostResolver, Protocol

MAX_PORT = 65535
#: Port of an agent's HTTP API (Consul's documentation, "Required ports").
CONSUL_PORT = 8500

CIDR_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?$"
PORT_PATTERN = r"^[0-9]{1,5}(/([Tt][Cc][Pp]|[Uu][Dd][Pp]))?$"
EXPOSE_PATTERN = r"^[0-9]{1,5}:[A-Za-z0-9-]+(:[0-9]{1,5})?(/([Tt][Cc][Pp]|[Uu][Dd][Pp]))?$"
DATACENTER_PATTERN = r"^[a-z0-9_-]{1,64}$"
URL_PATTERN = r"^(https?://)?[^/@]+/?$"

_CIDR_SCHEMA: dict[str, Any] = {"type": "string", "pattern": CIDR_PATTERN}
_PORT_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": MAX_PORT}
_DATACENTER = re.compile(DATACENTER_PATTERN)

_URL = re.compile(
    r"((?P<scheme>[a-z][a-z0-9+.-]*)://)?((?P<user>[^/\s]*)@)?"
    r"(?P<host>\[[^\]\s]*\]|[^/:?#@\s]*)(:(?P<port>[0-9]+))?(?P<rest>[/?#]\S*)?",
    re.IGNORECASE,
)

_port = whole(1, MAX_PORT, "a port", "8080")
_protocol = choice(Protocol)


def _number(value: Any) -> int:
    if isinstance(value, str) and (ports := re.fullmatch(r"([0-9]{1,5})\s*-\s*[0-9]{1,5}", value.strip())):
        raise wrong(f"{show(value)} is a range of ports", f"write an entry for each port: {ports[1]} and so on")
    return _port(value)


def read_network(value: Any) -> IPv4Network:
    """An IPv4 network in CIDR notation, or one address."""
    if isinstance(value, IPv4Network | IPv4Address):
        return IPv4Network(value)
    text = read_text(value, "a network in CIDR notation", "10.0.0.0/8")
    if ":" in text:
        raise wrong(f"{show(text)} is no IPv4 network: IPv6 never leaves a cluster", "write for example 10.0.0.0/8")
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise wrong(
            f"{show(text)} is not a network in CIDR notation",
            "write network/prefix length or an address, for example 10.0.0.0/8",
        ) from None
    if not re.fullmatch(r"[^/]+(/[0-9]{1,2})?", text):
        raise wrong(f"{show(text)} has a netmask where the prefix length should be", f"write {network}")
    if "/" in text and network.network_address != IPv4Address(text.split("/")[0]):
        raise wrong(f"{show(text)} has host bits set: the network of that address is {network}", f"write {network}")
    return network


def read_port(value: Any) -> tuple[Protocol, int]:
    """A port with its protocol, `53/udp`; a number alone is of TCP."""
    if isinstance(value, str) and "/" in value:
        number, _, protocol = value.strip().partition("/")
        return _protocol(protocol), _number(number)
    if isinstance(value, str) and value.strip().lower() in {"ssh", "http", "https", "dns", "ntp", "nfs"}:
        raise wrong(f"expected the number of a port, got {show(value)}", "write it as in /etc/services, such as 22/tcp")
    return Protocol.TCP, _number(value)


class Exposed(NamedTuple):
    """`host_port:node[:node_port][/protocol]`; the fields are those of the mapping that says the same."""

    host_port: int
    node: str
    node_port: int | None
    protocol: Protocol


class Routed(NamedTuple):
    """A network alone; the fields are those of the mapping that says the same."""

    to: IPv4Network
    via: None = None


def read_route(value: Any) -> Routed:
    """A route in its short form."""
    return Routed(read_network(value))


def read_exposure(value: Any) -> Exposed:
    """An exposed port in its short form."""
    example = "8080:hpc-cluster-controller:80/tcp"
    text = read_text(value, "an exposed port", example)
    ports, slash, protocol = text.partition("/")
    parts = [part.strip() for part in ports.split(":")]
    if len(parts) not in (2, 3) or not parts[1]:
        raise wrong(
            f"{show(text)} does not say which port of which node",
            f"write host_port:node:node_port/protocol, for example {example}",
        )
    node_port = _number(parts[2]) if parts[2:] else None
    return Exposed(_number(parts[0]), parts[1], node_port, _protocol(protocol) if slash else Protocol.TCP)


def read_node(value: Any) -> str:
    """The name of a node; spec/ knows which there are."""
    return read_text(value, "the name of a node", "hpc-cluster-controller")


def read_consul(value: Any) -> str:
    """The URL of a Consul agent's HTTP API. Its host answers DNS, too, and dnsmasq is told where by address."""
    example = f"http://127.0.0.1:{CONSUL_PORT}"
    text = read_text(value, "the URL of a Consul agent", example)
    parts = _URL.fullmatch(text)
    port = None if parts is None or parts["port"] is None else int(parts["port"][:6])
    if parts is None or (port is not None and not 0 < port <= MAX_PORT):
        raise wrong(f"{show(text)} is not a URL", f"write for example {example}")
    scheme, host = (parts["scheme"] or "http").lower(), parts["host"].lower()
    if scheme not in ("http", "https"):
        raise wrong(f"{show(text)} is neither http nor https", f"write for example {example}")
    if parts["user"] is not None:
        raise wrong("a URL of Consul holds no password", "write the ACL token into a file and name it in token_file")
    if host != "localhost":
        try:
            address = IPv4Address(host)
        except AddressValueError:
            raise wrong(
                f"{show(host)} is not an IPv4 address: the cluster's DNS server is told an address, not a name",
                f"write for example {scheme}://10.0.0.5:{port or CONSUL_PORT}, or localhost",
            ) from None
        if address.is_unspecified or address.is_multicast or int(address) >> 28 == 15:
            raise wrong(f"{address} is not the address of one host", f"write for example {example}")
    if port is None:
        raise wrong(f"{show(text)} has no port", f"write {scheme}://{host}:{CONSUL_PORT}")
    if parts["rest"] not in (None, "/"):
        raise wrong(f"{show(text)} has more than an address and a port", f"write {scheme}://{host}:{port}")
    return f"{scheme}://{host}:{port}"


def read_datacenter(value: Any) -> str:
    """The name of a Consul datacenter: Consul takes letters in lower case, digits, `-` and `_`."""
    text = read_text(value, "the name of a datacenter", "dc1")
    if not _DATACENTER.fullmatch(text):
        better = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64]
        raise wrong(f"{show(text)} is not the name of a datacenter", f"write for example {better or 'dc1'}")
    return text


def read_seconds(low: int, high: int, example: str) -> Any:
    """A reader of whole seconds; `3s` is answered with how to write it."""
    number = whole(low, high, "a number of seconds", example)

    def read(value: Any) -> int:
        if isinstance(value, str) and (unit := re.fullmatch(r"([0-9]{1,6})\s*s(ec|econds?)?", value.strip())):
            raise wrong(f"expected a number of seconds without a unit, got {show(value)}", f"write {int(unit[1])}")
        return number(value)

    return read


Net = Annotated[IPv4Network, *typed(read_network, _CIDR_SCHEMA)]
PortNumber = Annotated[int, *typed(_number, _PORT_SCHEMA)]
HostPort = Annotated[
    tuple[Protocol, int], *typed(read_port, {"anyOf": [_PORT_SCHEMA, {"type": "string", "pattern": PORT_PATTERN}]})
]
ExposeText = Annotated[Exposed, *typed(read_exposure, {"type": "string", "pattern": EXPOSE_PATTERN})]
RouteText = Annotated[Routed, *typed(read_route, _CIDR_SCHEMA)]
Transport = Annotated[Protocol, *typed(_protocol, enum_schema(Protocol))]
NodeName = Annotated[str, *typed(read_node, {"type": "string", "minLength": 1})]
Router = Annotated[IPv4Address, *typed(read_ipv4, {"type": "string", "format": "ipv4"})]
Outbound = Annotated[Egress, *typed(choice(Egress), enum_schema(Egress))]
Resolver = Annotated[HostResolver, *typed(choice(HostResolver), enum_schema(HostResolver))]
Consul = Annotated[str, *typed(read_consul, {"type": "string", "pattern": URL_PATTERN})]
Datacenter = Annotated[str, *typed(read_datacenter, {"type": "string", "pattern": DATACENTER_PATTERN})]
TokenFile = Annotated[
    Path,
    *typed(path_reader("a file with the ACL token", "/etc/ai-how/consul.token"), {"type": "string", "minLength": 1}),
]
PemFile = Annotated[Path, *typed(path_reader("a PEM file", "/etc/consul/ca.pem"), {"type": "string", "minLength": 1})]
Interval = Annotated[int, *typed(read_seconds(1, 3600, "3"), {"type": "integer", "minimum": 1, "maximum": 3600})]
Timeout = Annotated[int, *typed(read_seconds(1, 600, "1"), {"type": "integer", "minimum": 1, "maximum": 600})]
