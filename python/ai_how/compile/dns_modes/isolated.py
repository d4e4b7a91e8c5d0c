"""`isolated`: NAT to the outside, cluster names at the gateway, everything else forwarded, nothing shared."""

from __future__ import annotations

from ai_how.compile.network import network as common
from ai_how.compile.network import simple_forward
from ai_how.resources.network import VirtualNetwork
from ai_how.spec.cluster import Cluster


def network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's libvirt network."""
    return common(cluster, forward=simple_forward(cluster.network), active=active)
