"""`shared_dns`: as `isolated`, and one with the other clusters of this mode: their names and nodes answer."""

from __future__ import annotations

from ai_how.compile.network import network as common
from ai_how.resources.network import Forward, VirtualNetwork
from ai_how.spec.cluster import Cluster


def network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's libvirt network. libvirt routes; our table masquerades what leaves (compile/host.py)."""
    return common(cluster, forward=Forward.ROUTE, active=active)
