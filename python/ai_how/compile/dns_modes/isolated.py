"""`isolated`: NAT to the outside, cluster names at the gateway, everything else forwarded."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

from ai_how.resources.network import DnsHost, Forward, Range, Reservation, VirtualNetwork
from ai_how.spec.cluster import Cluster
from ai_how.spec.network import Network


def network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's libvirt network."""
    net = cluster.network
    fixed = [(node, node.ip) for node in cluster.nodes if node.ip is not None]
    return VirtualNetwork(
        name=net.name,
        cluster=cluster.name,
        dns_mode=net.dns_mode,
        forward=Forward.NAT,
        bridge=net.bridge,
        mac=net.mac,
        mtu=net.mtu,
        domain=net.domain,
        subnet=net.subnet,
        gateway=net.gateway,
        dhcp_ranges=dhcp_ranges(net, [ip for _, ip in fixed], len(cluster.nodes)),
        reservations=tuple(sorted(Reservation(ip, node.mac, node.name) for node, ip in fixed)),
        dns_hosts=tuple(sorted(DnsHost(ip, (node.name,)) for node, ip in fixed)),
        forwarders=tuple(str(server) for server in net.forwarders) if net.gateway_answers_dns else (),
        dnsmasq_options=dnsmasq_options(net),
        active=active,
        autostart=active,
    )


def dhcp_ranges(net: Network, fixed: Sequence[IPv4Address], nodes: int) -> tuple[Range, ...]:
    """The pool, and where it alone would be too small, the reserved addresses outside it.

    libvirt allows dnsmasq as many leases as the ranges have addresses, and dnsmasq counts every lease, also those
    outside the ranges: a pool for two with a third node's address beside it would leave one of the three without.
    """
    pool = (net.dhcp_start, net.dhcp_end)
    if nodes <= int(net.dhcp_end) - int(net.dhcp_start) + 1:
        return (pool,)
    ranges: list[Range] = []
    for ip in sorted(each for each in fixed if not pool[0] <= each <= pool[1]):
        if ranges and ranges[-1][1] + 1 == ip:
            ranges[-1] = (ranges[-1][0], ip)
        else:
            ranges.append((ip, ip))
    return (pool, *ranges)


def dnsmasq_options(net: Network) -> tuple[str, ...]:
    """The dnsmasq options every mode shares (dnsmasq(8))."""
    options = [
        "no-hosts",  # the host's /etc/hosts is the host's business
        "no-ping",  # we own the segment: three seconds less for every lease
        # libvirt's strict-order asks one server after the other; a dead first one would cost seconds per lookup.
        "all-servers",
    ]
    if not net.gateway_answers_dns:
        direct = [str(server) for server in net.dns_servers if isinstance(server, IPv4Address)]
        options.append(f"dhcp-option=option:dns-server,{','.join(direct)}")
    return tuple(options)
