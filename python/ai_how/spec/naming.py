"""Which nodes a cluster has and what they are called."""

from __future__ import annotations

from dataclasses import dataclass

from ai_how.config.model import ClusterConfig, ComputeGroupConfig, ComputeNodeConfig, ControllerConfig
from ai_how.config.terms import AddressChoice
from ai_how.errors import Path
from ai_how.spec.node import Role


@dataclass(frozen=True, slots=True)
class Place:
    """A node as the configuration has it. `slot` counts compute nodes from 1, None for the controller."""

    name: str
    role: Role
    slot: int | None
    path: Path
    config: ControllerConfig | ComputeNodeConfig | ComputeGroupConfig

    @property
    def dynamic(self) -> bool:
        """True where the node takes whatever DHCP gives."""
        if isinstance(self.config, ComputeGroupConfig):
            return self.config.ip is not None
        return self.config.address is AddressChoice.DHCP


def network_name(cluster: str) -> str:
    """The libvirt network of a cluster."""
    return f"{cluster}-network"


def domain_name(config: ClusterConfig) -> str:
    """The DNS domain of a cluster's nodes."""
    return config.network.domain or default_domain(config.name)


def default_domain(cluster: str) -> str:
    """The one where none is given."""
    return f"{cluster}.internal"


def controller_name(cluster: str) -> str:
    """The node that the controller of a cluster is."""
    return f"{cluster}-controller"


def places(key: str, config: ClusterConfig) -> list[Place]:
    """All nodes in order, the controller first."""
    root: Path = ("clusters", key)
    found: list[Place] = []
    if config.controller is not None:
        path = (*root, "controller")
        found.append(Place(controller_name(config.name), Role.CONTROLLER, None, path, config.controller))
    nodes = config.compute_nodes
    path = (*root, "compute_nodes")
    prefix = f"{config.name}-compute-"
    if isinstance(nodes, ComputeGroupConfig):
        found.extend(Place(f"{prefix}{i:02d}", Role.COMPUTE, i, path, nodes) for i in range(1, nodes.count + 1))
    else:
        for i, node in enumerate(nodes, start=1):
            name = node.name or f"{prefix}{i:02d}"
            found.append(Place(name, Role.COMPUTE, i, (*path, i - 1), node))
    return found
