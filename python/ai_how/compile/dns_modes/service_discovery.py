"""`service_discovery`: as `isolated`, with Consul's names at the gateway and every node registered in Consul."""

from __future__ import annotations

from ipaddress import IPv4Address
from urllib.parse import urlsplit

from ai_how.compile.network import masqueraded
from ai_how.compile.network import network as common
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.registration import Registration
from ai_how.spec.cluster import Cluster
from ai_how.spec.policy import Discovery

#: Consul's own domain; agents can be configured otherwise, which we do not support.
ZONE = "consul"


def network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's libvirt network."""
    discovery = _discovery(cluster)
    server = f"server=/{ZONE}/{dns_address(discovery)}#{discovery.dns_port}"
    return common(cluster, forward=masqueraded(cluster.network), active=active, options=(server,))


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
            tags=(*discovery.tags, node.role, node.name),
            check=discovery.check,
        )
        for node in cluster.nodes
        if node.ip is not None
    )


def dns_address(discovery: Discovery) -> IPv4Address:
    """Where Consul answers DNS: the host of its URL. spec/rules.py has seen to it that this is an IPv4 address, or
    localhost."""
    host = urlsplit(discovery.address).hostname or ""
    return IPv4Address("127.0.0.1" if host == "localhost" else host)


def _discovery(cluster: Cluster) -> Discovery:
    return cluster.network.policy.discovery or Discovery(service_name=cluster.name)
