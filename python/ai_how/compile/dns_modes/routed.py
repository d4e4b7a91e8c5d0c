"""`routed`: one with the other clusters of this mode and declared routes; NAT only for what leaves for the uplink."""

from __future__ import annotations

from ai_how.compile.network import network as common
from ai_how.resources.network import Forward, VirtualNetwork
from ai_how.spec.cluster import Cluster


def network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's libvirt network. What is masqueraded is our table's business (compile/host.py).

    libvirt rejects what is not of the subnet, also where it routes. A network behind a node passes only where it does
    nothing at all, and our table everything.
    """
    net = cluster.network
    behind = any(each.via is not None and each.via in net.subnet for each in net.policy.routes)
    return common(cluster, forward=Forward.OPEN if behind else Forward.ROUTE, active=active)
