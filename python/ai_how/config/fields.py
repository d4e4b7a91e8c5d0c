"""The types of the fields: what each accepts, what it says when it does not, and how JSON Schema describes it.

Every reader takes what YAML leaves as text and what a Python caller may pass, and raises with a message that names what
is wrong and a hint that says what to write instead. Units are those of the document: memory and disk in GiB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from ai_how.config.terms import Accelerator, AddressChoice, DnsMode, MacAddress

#: Linux keeps interface names in 16 bytes, the last one NUL (IFNAMSIZ, linux/if.h).
MAX_BRIDGE_NAME = 15
#: RFC 1035 2.3.4.
MAX_LABEL = 63
MIN_PREFIX, MAX_PREFIX = 8, 29
MIN_MEMORY_MIB = 16
#: Far beyond one host; it keeps a slip of the finger from costing minutes.
MAX_COUNT = 100_000

LABEL_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
BRIDGE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$"
MAC_PATTERN = r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"

_LABEL = re.compile(LABEL_PATTERN)
_BRIDGE = re.compile(BRIDGE_PATTERN)
_MAC = re.compile(MAC_PATTERN)
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: What the XML that libvirt reads cannot carry (XML 1.0, production 2), and a line break, which it would fold.
_NOT_XML = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT])i?B?", re.IGNORECASE)


def wrong(message: str, hint: str) -> PydanticCustomError:
    """An error of one value; config/load.py turns it into a Problem."""
    return PydanticCustomError("value", "{message}", {"message": message, "hint": hint})


def show(value: object) -> str:
    """A value as messages quote it: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def as_yaml(value: object) -> str:
    """A value as one would write it on one line of YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(as_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(item)}' for key, item in value.items())}}}"
    return str(value)


def read_text(value: object, expected: str, example: str) -> str:
    """Text that says something, without blanks around it."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, bool):
        raise wrong(
            f"expected {expected}, got {show(value)}", f'YAML reads this word as yes or no: quote it, "{value}"'
        )
    raise wrong(
        f"expected {expected}, got {show(value) if value != '' else 'an empty text'}", f"write for example {example}"
    )


# ---- numbers ----------------------------------------------------------------------------------------------------


def whole(low: int, high: int, what: str, example: str) -> Callable[[Any], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(value: Any) -> int:
        if type(value) is int:
            number = value
        elif isinstance(value, str) and _WHOLE.fullmatch(value.strip()) and len(value) < 20:
            number = int(value)
        else:
            raise wrong(f"expected {what} such as {example}, got {show(value)}", f"write a whole number: {example}")
        if not low <= number <= high:
            raise wrong(f"{number} is out of range: expected {what}", f"write a whole number from {low} to {high}")
        return number

    return read


def _gigabytes(low_mib: int, high_gib: int, what: str, example: str) -> Callable[[Any], int]:
    """GiB as people write them, whole MiB as they are kept."""

    def read(value: Any) -> int:
        if type(value) is int or (type(value) is float and value == value and abs(value) < 1e18):
            number = float(value) if abs(value) < 1e18 else 1e18
        elif isinstance(value, str) and _DECIMAL.fullmatch(value.strip()) and len(value) < 40:
            number = float(value)
        else:
            hint = f"write a number of GiB without a unit: {example}"
            size = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
            if size:
                factor = {"K": 1 / 1024 / 1024, "M": 1 / 1024, "G": 1.0, "T": 1024.0}[size[2].upper()]
                hint = f"write GiB without a unit: {float(size[1]) * factor:g}"
            raise wrong(f"expected {what} in GiB such as {example}, got {show(value)}", hint)
        mib = number * 1024
        if not low_mib <= mib <= high_gib * 1024:
            raise wrong(
                f"{number:g} GiB is out of range: expected {what}",
                f"write from {low_mib / 1024:g} ({low_mib} MiB) to {high_gib} GiB",
            )
        if mib != int(mib):
            eighths = max(1, round(number * 8)) / 8
            raise wrong(
                f"{number:g} GiB is not a whole number of MiB",
                f"write for example {eighths:g} ({eighths * 1024:g} MiB)",
            )
        return int(mib)

    return read


_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})


def read_flag(value: Any) -> bool:
    """true or false, and the words YAML 1.1 takes for them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise wrong(f"expected true or false, got {show(value)}", "write true or false")


# ---- names ------------------------------------------------------------------------------------------------------


def label_from(text: str, default: str = "hpc-cluster") -> str:
    """The RFC 1123 label nearest to `text`."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_LABEL].strip("-")
    return label or default


def read_label(value: Any) -> str:
    """One label of a host name (RFC 1123 2.1), in lower case."""
    text = read_text(value, "a name", "hpc-cluster")
    if not _LABEL.fullmatch(text):
        if len(text) > MAX_LABEL:
            raise wrong(
                f"{show(text)} is {len(text)} characters long: a name has at most {MAX_LABEL}", "write a shorter name"
            )
        raise wrong(
            f"{show(text)} is not a host name: only a-z, 0-9 and hyphens inside",
            f"write for example {label_from(text)}",
        )
    return text


def bridge_from(text: str) -> str:
    """A bridge name that fits the kernel's limit, made from a wish or a cluster's name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
    return name[:MAX_BRIDGE_NAME].rstrip("-._") or "br-hpc"


def read_bridge(value: Any) -> str:
    """The name of a network interface: 1 to 15 characters, no blanks, slashes or colons (dev_valid_name in Linux)."""
    text = (
        read_text(value, "a bridge name", "br-hpc-cluster")
        if not isinstance(value, str) or not value.strip()
        else value
    )
    if len(text.encode()) > MAX_BRIDGE_NAME:
        raise wrong(
            f"the bridge name {show(text)} has {len(text.encode())} characters, Linux allows {MAX_BRIDGE_NAME}",
            f"write for example {bridge_from(text)}",
        )
    if not _BRIDGE.fullmatch(text):
        raise wrong(
            f"{show(text)} cannot be an interface name: letters, digits, '-', '_' and '.' only",
            f"write for example {bridge_from(text)}",
        )
    return text


def read_domain(value: Any) -> str:
    """A DNS domain of RFC 1123 labels, in lower case and without the final dot."""
    text = read_text(value, "a domain", "hpc-cluster.internal").lower().removesuffix(".")
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        better = ".".join(label_from(label, "x") for label in labels if label)[:253]
        raise wrong(f"{show(value)} is not a domain name", f"write for example {better or 'hpc-cluster.internal'}")
    return text


def path_reader(what: str, example: str) -> Callable[[Any], Path]:
    """A reader of paths as written; spec/resolve.py anchors them at the configuration's folder. Variables are not
    expanded."""

    def read(value: Any) -> Path:
        text = str(value) if isinstance(value, Path) else read_text(value, f"a path to {what}", example)
        if _NOT_XML.search(text):
            raise wrong("a path cannot contain control characters", f"write the path of {what}")
        if re.match(r"[a-z]+://", text):
            raise wrong(f"{show(text)} is a URL", "download the file and write its path")
        return Path(text)

    return read


_E = TypeVar("_E", bound=StrEnum)


def choice(kind: type[_E]) -> Callable[[Any], _E]:
    """A reader of the words of an enum."""
    words = [member.value for member in kind]

    def read(value: Any) -> _E:
        if isinstance(value, str):
            for member in kind:
                if value.strip().lower() == member.value.lower():
                    return member
        import difflib

        near = difflib.get_close_matches(str(value).lower(), words, n=1, cutoff=0.5)
        listed = f"{', '.join(words[:-1])} or {words[-1]}"
        raise wrong(
            f"expected {listed}, got {show(value)}", f"did you mean {near[0]}?" if near else f"write {words[0]}"
        )

    return read


# ---- addresses --------------------------------------------------------------------------------------------------


def read_ipv4(value: Any) -> IPv4Address:
    """One IPv4 address."""
    if isinstance(value, IPv4Address):
        return value
    if isinstance(value, IPv6Address):
        value = str(value)
    text = read_text(value, "an IPv4 address", "192.168.100.1")
    try:
        return IPv4Address(text)
    except AddressValueError:
        pass
    host, _, prefix = text.partition("/")
    if prefix:
        hint = f"write {host} without the prefix length"
    elif ":" in text:
        raise wrong(f"{show(text)} is an IPv6 address: this version manages IPv4 networks", "write an IPv4 address")
    elif re.fullmatch(r"\d+(\.\d+){3}", text) and all(int(part[:9]) < 256 for part in text.split(".")):
        hint = "write it without leading zeros: " + ".".join(str(int(part[:9])) for part in text.split("."))
    else:
        hint = "write four numbers from 0 to 255, for example 192.168.100.1"
    raise wrong(f"{show(text)} is not an IPv4 address", hint)


def read_fixed_ip(value: Any) -> IPv4Address | AddressChoice:
    """A node's address: fixed, or the word DHCP."""
    if isinstance(value, str) and value.strip().lower() == "dhcp":
        return AddressChoice.DHCP
    return read_ipv4(value)


def read_dynamic(value: Any) -> AddressChoice:
    """The address of all nodes of a group: only DHCP can be said for many."""
    if isinstance(value, str) and value.strip().lower() == "dhcp":
        return AddressChoice.DHCP
    raise wrong(
        f"one address ({show(value)}) cannot serve a whole group",
        "write DHCP, or fix single nodes in network.static_leases, or list the nodes",
    )


def read_subnet(value: Any) -> IPv4Network | AddressChoice:
    """An IPv4 network in CIDR notation, /8 to /29, that can be a private segment; or the word auto."""
    if isinstance(value, IPv4Network):
        value = str(value)
    text = read_text(value, "a subnet in CIDR notation", "192.168.100.0/24")
    if text.lower() == "auto":
        return AddressChoice.AUTO
    if ":" in text:
        raise wrong(
            f"{show(text)} is an IPv6 subnet: this version manages IPv4 networks", "write for example 192.168.100.0/24"
        )
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise wrong(
            f"{show(text)} is not a subnet in CIDR notation",
            "write network/prefix length, for example 192.168.100.0/24",
        ) from None
    if "/" not in text:
        base = IPv4Network((int(network.network_address) & 0xFFFFFF00, 24))
        raise wrong(f"{show(text)} has no prefix length", f"write for example {base}")
    if network.prefixlen > MAX_PREFIX:
        bigger = network.supernet(new_prefix=MAX_PREFIX)
        raise wrong(
            f"{network} is too small for a cluster: a gateway, a controller and a node need a /{MAX_PREFIX} or larger",
            f"write for example {bigger}",
        )
    if network.prefixlen < MIN_PREFIX:
        raise wrong(
            f"/{network.prefixlen} is larger than a network can be here (/{MIN_PREFIX})",
            f"write a prefix length from {MIN_PREFIX} to {MAX_PREFIX}, for example 192.168.100.0/24",
        )
    if network.network_address != IPv4Address(text.split("/")[0]):
        raise wrong(f"{show(text)} has host bits set: the network of that address is {network}", f"write {network}")
    for kind, name in (("is_loopback", "loopback"), ("is_multicast", "multicast"), ("is_link_local", "link-local")):
        if getattr(network, kind):
            raise wrong(
                f"{network} is a {name} network (RFC 6890)", "write a private network, for example 192.168.100.0/24"
            )
    first = int(network.network_address) >> 24
    if first == 0 or first >= 224:
        raise wrong(f"{network} is reserved (RFC 6890)", "write a private network, for example 192.168.100.0/24")
    return network


def read_server(value: Any) -> IPv4Address | IPv6Address:
    """The address of a DNS server, as seen from a guest."""
    if isinstance(value, IPv4Address | IPv6Address):
        server = value
    else:
        text = read_text(value, "the address of a DNS server", "8.8.8.8")
        try:
            server = ip_address(text)
        except ValueError:
            raise wrong(
                f"{show(text)} is not the address of a DNS server", "write an IP address such as 8.8.8.8, not a name"
            ) from None
    if server.is_loopback or server.is_unspecified:
        raise wrong(
            f"{server} means the guest itself, where no DNS server answers",
            "write the gateway's address, or the address of a real server such as 8.8.8.8",
        )
    if server.is_multicast or server == IPv4Address("255.255.255.255"):
        raise wrong(f"{server} is not the address of one server", "write the address of a server such as 8.8.8.8")
    return server


def read_mac(value: Any) -> MacAddress:
    """A unicast MAC address, in lower case with colons (IEEE 802: the lowest bit of the first octet is 0)."""
    if type(value) is int:
        raise wrong(
            f"expected a MAC address, got the number {value}",
            'YAML 1.1 reads digits with colons as base 60: quote the address, "52:54:00:12:34:01"',
        )
    text = read_text(value, "a MAC address", "52:54:00:12:34:01")
    if not _MAC.fullmatch(text):
        raise wrong(
            f"{show(text)} is not a MAC address", "write six octets in hexadecimal, for example 52:54:00:12:34:01"
        )
    mac = text.lower().replace("-", ":")
    first = int(mac[:2], 16)
    if first & 1:
        better = f"{first & 0xFE:02x}{mac[2:]}"
        raise wrong(
            f"{mac} is a multicast address, not one of a machine",
            f"write an even first octet, for example {better if better[:2] not in ('fe', '00') else '52' + mac[2:]}",
        )
    if mac == "00:00:00:00:00:00":
        raise wrong(f"{mac} is no address", "write for example 52:54:00:12:34:01")
    if first == 0xFE:
        raise wrong(f"libvirt keeps addresses that begin with fe for its taps: {mac}", f"write for example 52{mac[2:]}")
    return MacAddress(mac)


def typed(read: Callable[[Any], object], schema: dict[str, Any]) -> tuple[PlainValidator, WithJsonSchema]:
    """What makes a field of a reader and its JSON Schema."""
    return PlainValidator(read), WithJsonSchema(schema)


def enum_schema(kind: type[StrEnum]) -> dict[str, Any]:
    """The JSON Schema of a closed choice."""
    return {"type": "string", "enum": [member.value for member in kind]}


IPV4_SCHEMA: dict[str, Any] = {"type": "string", "format": "ipv4"}
_DHCP_SCHEMA: dict[str, Any] = {"type": "string", "pattern": "^[Dd][Hh][Cc][Pp]$"}

Cores = Annotated[
    int, *typed(whole(1, 4096, "a number of CPU cores", "4"), {"type": "integer", "minimum": 1, "maximum": 4096})
]
Count = Annotated[
    int,
    *typed(whole(0, MAX_COUNT, "a number of nodes", "16"), {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}),
]
Mtu = Annotated[
    int, *typed(whole(576, 65535, "an MTU in bytes", "1500"), {"type": "integer", "minimum": 576, "maximum": 65535})
]
MemoryMib = Annotated[
    int,
    *typed(_gigabytes(MIN_MEMORY_MIB, 65536, "memory", "8"), {"type": "number", "minimum": 0.015625, "maximum": 65536}),
]
DiskMib = Annotated[
    int,
    *typed(_gigabytes(1, 1048576, "a disk size", "50"), {"type": "number", "exclusiveMinimum": 0, "maximum": 1048576}),
]
Flag = Annotated[bool, *typed(read_flag, {"type": "boolean"})]
Label = Annotated[str, *typed(read_label, {"type": "string", "pattern": LABEL_PATTERN})]
Bridge = Annotated[str, *typed(read_bridge, {"type": "string", "pattern": BRIDGE_PATTERN})]
Domain = Annotated[str, *typed(read_domain, {"type": "string", "format": "hostname"})]
ImagePath = Annotated[
    Path, *typed(path_reader("a qcow2 image", "/var/lib/images/base.qcow2"), {"type": "string", "minLength": 1})
]
Ipv4 = Annotated[IPv4Address, *typed(read_ipv4, IPV4_SCHEMA)]
FixedIp = Annotated[IPv4Address | AddressChoice, *typed(read_fixed_ip, {"anyOf": [IPV4_SCHEMA, _DHCP_SCHEMA]})]
Dynamic = Annotated[AddressChoice, *typed(read_dynamic, _DHCP_SCHEMA)]
Subnet = Annotated[
    IPv4Network | AddressChoice,
    *typed(
        read_subnet,
        {"type": "string", "pattern": r"^(auto|[0-9]{1,3}(\.[0-9]{1,3}){3}/([89]|1[0-9]|2[0-9]))$"},
    ),
]
Server = Annotated[
    IPv4Address | IPv6Address,
    *typed(read_server, {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
Mac = Annotated[MacAddress, *typed(read_mac, {"type": "string", "pattern": MAC_PATTERN})]
Mode = Annotated[DnsMode, *typed(choice(DnsMode), enum_schema(DnsMode))]
Runner = Annotated[Accelerator, *typed(choice(Accelerator), enum_schema(Accelerator))]
