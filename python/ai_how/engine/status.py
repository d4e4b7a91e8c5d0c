"""What a cluster is like now, read from the host alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import Any

from ai_how.engine.drift import Drift, find_drift, look_host_wide
from ai_how.engine.observe import Observed, observe
from ai_how.engine.wait import Lease, leases
from ai_how.host.libvirt import Libvirt
from ai_how.providers import domain as domains
from ai_how.resources.domain import Domain
from ai_how.resources.pool import Pool
from ai_how.spec.cluster import Cluster
from ai_how.spec.naming import network_name
from ai_how.spec.node import Role


class NetworkState(StrEnum):
    """Whether the network is at work."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    MISSING = "missing"


class NodeState(StrEnum):
    """Whether the node's machine runs."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """The cluster's network; addresses are None where it is missing."""

    name: str
    bridge: str
    subnet: IPv4Network | None
    gateway: IPv4Address | None
    state: NetworkState
    dns_mode: str

    def to_json(self) -> dict[str, Any]:
        """As `ai-how status --json` shows it."""
        return {
            "name": self.name,
            "bridge": self.bridge,
            "subnet": None if self.subnet is None else str(self.subnet),
            "gateway": None if self.gateway is None else str(self.gateway),
            "state": self.state,
            "dns_mode": self.dns_mode,
        }


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node: `ip` is the address reserved for it, `lease` what it holds now."""

    name: str
    role: Role
    state: NodeState
    mac: str
    ip: IPv4Address | None
    lease: Lease | None

    def to_json(self) -> dict[str, Any]:
        """As `ai-how status --json` shows it; `expires` is ISO 8601 in UTC."""
        lease = self.lease
        ip = self.ip if self.ip is not None or lease is None else lease.ip
        return {
            "name": self.name,
            "role": self.role,
            "state": self.state,
            "mac": self.mac,
            "ip": None if ip is None else str(ip),
            "lease": None
            if lease is None
            else {"ip": str(lease.ip), "expires": lease.expires_at.isoformat(timespec="seconds")},
        }


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster as the host has it; the controller is the first node. `storage` is the directory of its disks.

    `drift` is what is not as it was made, `unseen` why something of that could not be looked at; both are empty where
    nobody looked (`survey` does).
    """

    cluster: str
    network: NetworkStatus
    nodes: tuple[NodeStatus, ...]
    storage: PurePosixPath | None = None
    drift: tuple[Drift, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether the host has anything of it."""
        return (
            any(node.state is not NodeState.MISSING for node in self.nodes)
            or self.network.state is not NetworkState.MISSING
            or self.storage is not None
        )

    @property
    def at_work(self) -> bool:
        """Whether the network is active and every node runs."""
        return self.network.state is NetworkState.ACTIVE and all(node.state is NodeState.RUNNING for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """As `ai-how status --json` shows it."""
        return {
            "cluster": self.cluster,
            "network": self.network.to_json(),
            "nodes": [node.to_json() for node in self.nodes],
            "drift": [each.to_json() for each in self.drift],
            "unseen": list(self.unseen),
        }


def _node_state(node: Domain, paused: Collection[str]) -> NodeState:
    if not node.running:
        return NodeState.STOPPED
    return NodeState.PAUSED if node.name in paused else NodeState.RUNNING


def survey(libvirt: Libvirt, clusters: Iterable[tuple[str, Cluster | None]]) -> list[ClusterStatus]:
    """The status of clusters, by name and (where a configuration names them) spec, with what drifted of each."""
    found: list[ClusterStatus] = []
    host = None
    for name, spec in clusters:
        observed = observe(libvirt, name, host=False)
        host = host or look_host_wide(libvirt, observed.networks)
        status = read_status(libvirt, name, observed, spec)
        guarded = observed.network is not None and observed.network.policy.firewall.enabled
        found.append(replace(status, drift=find_drift(observed, host), unseen=host.unseen if guarded else ()))
    return found


def read_status(libvirt: Libvirt, cluster: str, observed: Observed, spec: Cluster | None = None) -> ClusterStatus:
    """The status of `cluster` from what was observed of it, and its leases; with `spec` also what is missing."""
    network = observed.network
    if network is None:
        shown = NetworkStatus(network_name(cluster), "", None, None, NetworkState.MISSING, "")
        held: dict[str, Lease] = {}
        reserved: dict[str, IPv4Address] = {}
    else:
        state = NetworkState.ACTIVE if network.active else NetworkState.INACTIVE
        shown = NetworkStatus(network.name, network.bridge, network.subnet, network.gateway, state, network.dns_mode)
        held = {lease.mac: lease for lease in leases(libvirt, network.name)}
        reserved = {each.mac: each.ip for each in network.reservations}
    paused = domains.paused(libvirt) if any(node.running for node in observed.domains) else frozenset()
    nodes = [
        NodeStatus(
            node.name,
            node.role,
            _node_state(node, paused),
            node.mac,
            reserved.get(node.mac),
            # A lease outlives its machine; only a running one holds it.
            held.get(node.mac) if node.running else None,
        )
        for node in observed.domains
    ]
    if spec is not None:
        there = {node.name for node in nodes}
        nodes += [
            NodeStatus(node.name, node.role, NodeState.MISSING, node.mac, node.ip, None)
            for node in spec.nodes
            if node.name not in there
        ]
    nodes.sort(key=lambda node: (node.role is not Role.CONTROLLER, len(node.name), node.name))
    storage = next((each.path for each in observed.resources if isinstance(each, Pool)), None)
    return ClusterStatus(cluster, shown, tuple(nodes), storage)
