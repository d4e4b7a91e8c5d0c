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
from ai_how.config.terms import Accelerator, AddressChoice, DnsMode


@dataclass(frozen=True, slots=True)
class DefaultText:
    """What a field is when left out, where no single value says it."""

    text: str


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


#: Tags of the two forms of compute_nodes; config/load.py takes them out of error paths.
FORM_TAGS = frozenset({"(list)", "(group)"})


def _form(value: Any) -> str:
    return "(group)" if isinstance(value, dict | ComputeGroupConfig) else "(list)"


ComputeNodes = Annotated[
    Annotated[tuple[ComputeNodeConfig, ...], Tag("(list)")] | Annotated[ComputeGroupConfig, Tag("(group)")],
    Discriminator(_form),
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
    table: type[BaseModel] | None = None
    match path:
        case ():
            table = ConfigFile
        case ("clusters", _):
            table = ClusterConfig
        case ("clusters", _, "network"):
            table = NetworkConfig
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
    yield "clusters.<key>.controller", ControllerConfig
    yield "clusters.<key>.compute_nodes[]", ComputeNodeConfig
    yield "clusters.<key>.compute_nodes (group)", ComputeGroupConfig
