"""The one table of fields: types, defaults, descriptions, examples.

From it come the checks of a configuration, the JSON Schema (config/schema.py) and the reference page
(docs/configuration.md). What a default depends on is said in `DefaultText`; spec/ computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ai_how.config.fields import (
    Bridge,
    Cores,
    Count,
    DiskMib,
    Domain,
    Dynamic,
    FixedIp,
    Flag,
    ImagePath,
    Ipv4,
    Label,
    Mac,
    MemoryMib,
    Mode,
    Mtu,
    Runner,
    Server,
    Subnet,
)
from ai_how.config.policy_fields import (
    Consul,
    Datacenter,
    ExposeText,
    HostPort,
    Interval,
    Net,
    NodeName,
    Outbound,
    PemFile,
    PortNumber,
    Resolver,
    Router,
    RouteText,
    Timeout,
    TokenFile,
    Transport,
)
from ai_how.config.terms import Accelerator, AddressChoice, DnsMode, Egress, HostResolver, Protocol


@dataclass(frozen=True, slots=True)
class DefaultText:
    """What a field is when left out, where no single value says it."""

    text: str


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


#: Tags of fields that have several forms; config/load.py takes them out of error paths.
FORM_TAGS = frozenset({"(list)", "(group)", "(mapping)", "(text)"})


def _form(value: Any) -> str:
    return "(mapping)" if isinstance(value, dict | BaseModel) else "(text)"


class ExposeConfig(_Table):
    """A port of the host that leads to a port of a node. In short: `8080:hpc-cluster-controller:80/tcp`."""

    host_port: PortNumber = Field(description="Port of the host.", examples=[8080])
    node: NodeName = Field(
        description="Name of the node, which must have a fixed address.", examples=["hpc-cluster-controller"]
    )
    node_port: Annotated[PortNumber | None, DefaultText("`host_port`")] = Field(
        None, description="Port of the node.", examples=[80]
    )
    protocol: Transport = Field(Protocol.TCP, description="Protocol of both.", examples=["tcp"])


class RouteConfig(_Table):
    """A network that a routed cluster exchanges packets with, without NAT. In short: `10.50.0.0/16`."""

    to: Net = Field(description="The network.", examples=["10.50.0.0/16"])
    via: Annotated[Router | None, DefaultText("the way that the host has already")] = Field(
        None, description="The router that leads there.", examples=["192.168.100.200"]
    )


Expose = Annotated[
    Annotated[ExposeConfig, Tag("(mapping)")] | Annotated[ExposeText, Tag("(text)")], Discriminator(_form)
]
Route = Annotated[Annotated[RouteConfig, Tag("(mapping)")] | Annotated[RouteText, Tag("(text)")], Discriminator(_form)]


class FirewallConfig(_Table):
    """What may pass beside what the mode gives (docs/modes/ has a page per mode)."""

    enabled: Flag = Field(
        True,
        description="`false` leaves the cluster to libvirt's own rules, which need no root and have holes; "
        "for `isolated` and `service_discovery` only.",
        examples=[True],
    )
    allow_host_ports: tuple[HostPort, ...] = Field(
        default_factory=tuple,
        description="Ports of the gateway that nodes may use beside DHCP and DNS; TCP where nothing is said.",
        examples=[[22, "123/udp"]],
    )
    block_networks: tuple[Net, ...] = Field(
        default_factory=tuple,
        description="Networks that nodes must never reach. Wins over everything else.",
        examples=[["10.0.0.0/8"]],
    )
    egress: Outbound = Field(
        Egress.ALLOW,
        description="Whether nodes may open connections to the outside where nothing else is said.",
        examples=["allow"],
    )
    allow_networks: tuple[Net, ...] = Field(
        default_factory=tuple,
        description="Networks and addresses that nodes may reach with `egress: deny`.",
        examples=[["203.0.113.0/24", "198.51.100.80"]],
    )
    expose: tuple[Expose, ...] = Field(
        default_factory=tuple,
        description="Ports of the host that lead to ports of nodes: mappings, or "
        "`host_port:node:node_port/protocol`, where the last two may be left out.",
        examples=[["8080:hpc-cluster-controller:80"]],
    )
    allow_from: tuple[Net, ...] = Field(
        default_factory=tuple,
        description="Networks outside that may open connections to nodes.",
        examples=[["198.51.100.0/24"]],
    )


class TlsConfig(_Table):
    """TLS to Consul, with files in PEM."""

    ca_file: Annotated[PemFile | None, DefaultText("the system's trust")] = Field(
        None, description="The authority that signed Consul's certificate.", examples=["/etc/consul/ca.pem"]
    )
    cert_file: PemFile | None = Field(
        None, description="A certificate of our own; needs `key_file`.", examples=["/etc/consul/client.pem"]
    )
    key_file: PemFile | None = Field(None, description="Its key.", examples=["/etc/consul/client.key"])
    server_name: Annotated[Domain | None, DefaultText("the host of `address`")] = Field(
        None, description="The name that Consul's certificate must have.", examples=["server.dc1.consul"]
    )


class CheckConfig(_Table):
    """How Consul checks a node: by a TCP connection."""

    port: PortNumber = Field(22, description="Port of the node.", examples=[22])
    interval: Interval = Field(3, description="Seconds from check to check.", examples=[3])
    timeout: Timeout = Field(1, description="Seconds until a check is given up; at most `interval`.", examples=[1])


class DiscoveryConfig(_Table):
    """Where Consul is and what the nodes are there; for `dns_mode: service_discovery` only."""

    address: Consul = Field(
        "http://127.0.0.1:8500",
        description="URL of a Consul agent's HTTP API. Its host is an IPv4 address or localhost: "
        "the cluster's DNS server asks there, too.",
        examples=["http://127.0.0.1:8500"],
    )
    dns_port: PortNumber = Field(8600, description="Port at which the same agent answers DNS.", examples=[8600])
    datacenter: Annotated[Datacenter | None, DefaultText("the agent's own")] = Field(
        None, description="Consul's datacenter.", examples=["dc1"]
    )
    token_file: TokenFile | None = Field(
        None,
        description="A file with the ACL token. A relative path starts at the folder of this file; `~` is home.",
        examples=["/etc/ai-how/consul.token"],
    )
    tls: Annotated[TlsConfig | None, DefaultText("the system's trust, where the URL is https")] = Field(
        None, description="TLS to Consul.", examples=[{"ca_file": "/etc/consul/ca.pem"}]
    )
    service_name: Annotated[Label | None, DefaultText("the cluster's name")] = Field(
        None, description="The service that the nodes are: `<service_name>.service.consul`.", examples=["hpc-cluster"]
    )
    tags: tuple[Label, ...] = Field(
        default_factory=tuple, description="Tags of the service at every node.", examples=[["gpu", "prod"]]
    )
    check: Annotated[CheckConfig | None, DefaultText("port 22 every 3 s, given up after 1 s")] = Field(
        None, description="Consul's check of every node.", examples=[{"port": 22}]
    )
    required: Flag = Field(
        True,
        description="`false`: `up` goes on without Consul, with a warning, and a later one catches up.",
        examples=[True],
    )


class NetworkConfig(_Table):
    """The virtual network of a cluster."""

    subnet: Subnet = Field(
        description="IPv4 subnet in CIDR notation, /8 to /29; `auto` takes a free one.", examples=["192.168.100.0/24"]
    )
    bridge: Bridge = Field(
        description="Name of the Linux bridge, at most 15 characters; one of its own for every cluster.",
        examples=["br-hpc-cluster"],
    )
    gateway_ip: Annotated[Ipv4 | None, DefaultText("the first host of the subnet")] = Field(
        None, description="Address of the gateway inside the subnet.", examples=["192.168.100.1"]
    )
    dhcp_start: Annotated[Ipv4 | None, DefaultText("subnet + 10")] = Field(
        None,
        description="First address of the DHCP range; the first compute node gets it.",
        examples=["192.168.100.10"],
    )
    dhcp_end: Annotated[Ipv4 | None, DefaultText("subnet + 254")] = Field(
        None, description="Last address of the DHCP range.", examples=["192.168.100.254"]
    )
    dns_servers: Annotated[tuple[Server, ...] | None, DefaultText("the gateway, 8.8.8.8, 1.1.1.1")] = Field(
        None,
        min_length=1,
        description="DNS servers. With the gateway among them guests ask the gateway, which forwards to the others; "
        "without it guests ask these servers directly and cluster names do not resolve.",
        examples=[["192.168.100.1", "8.8.8.8", "1.1.1.1"]],
    )
    dns_mode: Mode = Field(
        DnsMode.ISOLATED,
        description="How the cluster relates to others: isolated, shared_dns, routed or service_discovery.",
        examples=["isolated"],
    )
    domain: Annotated[Domain | None, DefaultText("`<name>.internal`")] = Field(
        None, description="DNS domain of the nodes.", examples=["hpc-cluster.internal"]
    )
    static_leases: dict[str, Ipv4] = Field(
        default_factory=dict,
        description="Fixed addresses by node name, e.g. hpc-cluster-compute-01.",
        examples=[{"hpc-cluster-controller": "192.168.100.2"}],
    )
    vm_macs: Annotated[dict[str, Mac], DefaultText("derived from cluster and node name")] = Field(
        default_factory=dict,
        description="MAC addresses by node name.",
        examples=[{"hpc-cluster-controller": "52:54:00:12:34:01"}],
    )
    mtu: Annotated[Mtu | None, DefaultText("1500")] = Field(
        None, description="Largest packet of the network in bytes, 576 to 65535.", examples=[1500]
    )
    nat: Flag = Field(
        True,
        description="Masquerade what leaves through the host's uplink. Only `routed` may say `false`: "
        "the networks outside need a route back then.",
        examples=[True],
    )
    routes: tuple[Route, ...] = Field(
        default_factory=tuple,
        description="Networks that a `routed` cluster exchanges packets with, unmasqueraded and in both directions: "
        "mappings, or networks in CIDR notation.",
        examples=[["10.50.0.0/16", {"to": "10.60.0.0/16", "via": "192.168.100.200"}]],
    )
    host_resolver: Resolver = Field(
        HostResolver.AUTO,
        description="What resolves names on the host, and is told of the zones of a `shared_dns` cluster; "
        "`none`: nobody is told.",
        examples=["auto"],
    )
    firewall: Annotated[FirewallConfig | None, DefaultText("what the mode allows")] = Field(
        None, description="What may pass beside what the mode gives.", examples=[{"egress": "deny"}]
    )
    service_discovery: Annotated[
        DiscoveryConfig | None, DefaultText("Consul at 127.0.0.1, with `dns_mode: service_discovery`")
    ] = Field(None, description="Where Consul is.", examples=[{"address": "http://127.0.0.1:8500"}])


class MachineConfig(_Table):
    """The size of a machine."""

    cpu_cores: Cores = Field(description="Virtual CPUs.", examples=[4])
    memory_gb: MemoryMib = Field(
        description="Memory in GiB; fractions of whole MiB are fine (0.125 is 128 MiB).", examples=[8]
    )
    disk_gb: DiskMib = Field(description="Size of the disk in GiB, at least that of the base image.", examples=[50])


class _OneMachine(MachineConfig):
    ip: Annotated[FixedIp | None, DefaultText("the next free address")] = Field(
        None, description="Fixed address, or `DHCP` for whatever DHCP gives.", examples=["192.168.100.10"]
    )
    ip_address: Annotated[FixedIp | None, DefaultText("`ip`")] = Field(
        None, description="The same as `ip`.", examples=["192.168.100.2"]
    )

    @property
    def address(self) -> IPv4Address | AddressChoice | None:
        """The address asked for, under either name; None for the next free one."""
        return self.ip if self.ip is not None else self.ip_address

    @property
    def address_key(self) -> str:
        """The name under which it was asked for."""
        return "ip" if self.ip is not None else "ip_address"


class ControllerConfig(_OneMachine):
    """The controller, `<name>-controller`."""


class ComputeNodeConfig(_OneMachine):
    """One compute node."""

    name: Annotated[Label | None, DefaultText("`<cluster>-compute-01`, by place in the list")] = Field(
        None,
        description="Full name of the node; a named node keeps its identity when others leave the list.",
        examples=["hpc-cluster-login"],
    )


class ComputeGroupConfig(MachineConfig):
    """Many compute nodes alike."""

    count: Count = Field(description="How many.", examples=[16])
    ip: Annotated[Dynamic | None, DefaultText("the next free addresses")] = Field(
        None, description="`DHCP` for whatever DHCP gives.", examples=["DHCP"]
    )


def _nodes_form(value: Any) -> str:
    return "(group)" if isinstance(value, dict | ComputeGroupConfig) else "(list)"


ComputeNodes = Annotated[
    Annotated[tuple[ComputeNodeConfig, ...], Tag("(list)")] | Annotated[ComputeGroupConfig, Tag("(group)")],
    Discriminator(_nodes_form),
]


class ClusterConfig(_Table):
    """One cluster."""

    name: Label = Field(
        description="Name of the cluster, an RFC 1123 label. Its machines are `<name>-controller`, "
        "`<name>-compute-01` …, its network `<name>-network`.",
        examples=["hpc-cluster"],
    )
    base_image_path: ImagePath = Field(
        description="The qcow2 image every disk is an overlay of. A relative path starts at the folder of this file; "
        "`~` is the home folder; variables are not expanded.",
        examples=["/var/lib/images/base.qcow2"],
    )
    network: NetworkConfig = Field(description="The virtual network.")
    controller: Annotated[ControllerConfig | None, DefaultText("no controller")] = Field(
        None, description="The controller."
    )
    compute_nodes: Annotated[ComputeNodes, DefaultText("none")] = Field(
        default=(), description="The compute nodes: a list, or `{count: N, …}` for N alike."
    )
    accelerator: Runner = Field(
        Accelerator.AUTO,
        description="`kvm`, `tcg` (emulation), or `auto`: KVM where it really works.",
        examples=["auto"],
    )
    graphics: Flag = Field(False, description="Give the machines a graphical console.", examples=[False])
    cloud_init: Flag = Field(False, description="Attach a cloud-init NoCloud seed to every machine.", examples=[False])


class ConfigFile(_Table):
    """A whole configuration. Keys that begin with `x-` at the top are free, for YAML anchors."""

    clusters: dict[str, ClusterConfig] = Field(min_length=1, description="The clusters, each under a key of its own.")


def fields_at(path: tuple[str | int, ...]) -> dict[str, Any] | None:
    """The fields allowed in the mapping at `path` of a configuration; None where keys are free or nothing is known."""
    table: type[BaseModel]
    match path:
        case ():
            table = ConfigFile
        case ("clusters", _):
            table = ClusterConfig
        case ("clusters", _, "network"):
            table = NetworkConfig
        case ("clusters", _, "network", "routes", int()):
            table = RouteConfig
        case ("clusters", _, "network", "firewall"):
            table = FirewallConfig
        case ("clusters", _, "network", "firewall", "expose", int()):
            table = ExposeConfig
        case ("clusters", _, "network", "service_discovery"):
            table = DiscoveryConfig
        case ("clusters", _, "network", "service_discovery", "tls"):
            table = TlsConfig
        case ("clusters", _, "network", "service_discovery", "check"):
            table = CheckConfig
        case ("clusters", _, "controller"):
            table = ControllerConfig
        case ("clusters", _, "compute_nodes"):
            table = ComputeGroupConfig
        case ("clusters", _, "compute_nodes", int()):
            table = ComputeNodeConfig
        case _:
            return None
    return dict(table.model_fields)


def tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table with the path of its fields, in the order of the reference page."""
    yield "clusters.<key>", ClusterConfig
    yield "clusters.<key>.network", NetworkConfig
    yield "clusters.<key>.network.routes[]", RouteConfig
    yield "clusters.<key>.network.firewall", FirewallConfig
    yield "clusters.<key>.network.firewall.expose[]", ExposeConfig
    yield "clusters.<key>.network.service_discovery", DiscoveryConfig
    yield "clusters.<key>.network.service_discovery.tls", TlsConfig
    yield "clusters.<key>.network.service_discovery.check", CheckConfig
    yield "clusters.<key>.controller", ControllerConfig
    yield "clusters.<key>.compute_nodes[]", ComputeNodeConfig
    yield "clusters.<key>.compute_nodes (group)", ComputeGroupConfig
