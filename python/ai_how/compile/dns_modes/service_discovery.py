"""`service_discovery`: as `isolated`, with Consul's names at the gateway and every node registered in Consul."""

from __future__ import annotations

from ai_how.compile.network import network as common
from ai_how.compile.network import simple_forward
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.registration import ZONE, Registration, dns_address
from ai_how.spec.cluster import Cluster
from ai_how.spec.policy import Discovery


def network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's libvirt network. Where it has rules, a file says where Consul is (compile/host.py)."""
    net = cluster.network
    options = () if net.policy.firewall.enabled else (consul_server(_discovery(cluster)),)
    return common(cluster, forward=simple_forward(net), active=active, options=options)


def registrations(cluster: Cluster) -> tuple[Registration, ...]:
    """What Consul shall know of the cluster: every node that has a fixed address."""
    discovery = _discovery(cluster)
    return tuple(
        Registration(
            node=node.name,
            cluster=cluster.name,
            network=cluster.network.name,
            discovery=discovery,
            service=discovery.service_name,
            ip=node.ip,
            # By its role and its name, too, a node can be asked for: hpc-controller.hpc.service.consul
            tags=tuple(dict.fromkeys((*discovery.tags, node.role, node.name))),
            check=discovery.check,
        )
        for node in cluster.nodes
        if node.ip is not None
    )


def consul_server(discovery: Discovery) -> str:
    """dnsmasq's line that has Consul's zone asked of Consul."""
    return f"server=/{ZONE}/{dns_address(discovery)}#{discovery.dns_port}"


def _discovery(cluster: Cluster) -> Discovery:
    return cluster.network.policy.discovery or Discovery(service_name=cluster.name)
