"""What the libvirt networks of all DNS modes have in common; dns_modes/ says where each differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from ai_how.compile.zones import reverse_zones
from ai_how.resources.network import DnsHost, Forward, Range, Reservation, VirtualNetwork, merged
from ai_how.resources.servers import File, file_option
from ai_how.spec.cluster import Cluster
from ai_how.spec.network import Network


def network(cluster: Cluster, *, forward: Forward, active: bool, options: Iterable[str] = ()) -> VirtualNetwork:
    """The cluster's libvirt network, with more `options` of dnsmasq's than every mode has.

    Where the cluster has rules, and so root helped to make it, dnsmasq has `files` of ours besides.
    """
    net, files = cluster.network, cluster.network.policy.firewall.enabled
    fixed = [(node, node.ip) for node in cluster.nodes if node.ip is not None]
    return VirtualNetwork(
        name=net.name,
        cluster=cluster.name,
        dns_mode=net.dns_mode,
        forward=forward,
        bridge=net.bridge,
        mac=net.mac,
        mtu=net.mtu,
        domain=net.domain,
        subnet=net.subnet,
        gateway=net.gateway,
        dhcp_ranges=dhcp_ranges(net, [ip for _, ip in fixed], len(cluster.nodes)),
        reservations=tuple(sorted(Reservation(ip, node.mac, node.name) for node, ip in fixed)),
        dns_hosts=tuple(sorted(DnsHost(ip, (node.name,)) for node, ip in fixed)),
        forwarders=() if files else forwarders(net),
        dnsmasq_options=(
            *dnsmasq_options(net),
            *((file_option(net.name, each) for each in File) if files else ()),
            *options,
        ),
        active=active,
        autostart=active,
        policy=net.policy,
        upstream=forwarders(net) if files else (),
        dns_servers=told_directly(net) if files else (),
    )


def simple_forward(net: Network) -> Forward:
    """The forward mode of a network without routes of its own.

    libvirt's own NAT rejects every connection from outside, and no table of ours can take that back. Where we have one,
    libvirt routes in every mode, and our table masquerades and decides who gets in (compile/host.py): what may come in,
    and the mode itself, then change under running nodes.
    """
    return Forward.ROUTE if net.policy.firewall.enabled else Forward.NAT


def forwarders(net: Network) -> tuple[str, ...]:
    """The servers that the gateway asks; none where nodes are told to ask others than the gateway."""
    return tuple(str(server) for server in net.forwarders) if net.gateway_answers_dns else ()


def told_directly(net: Network) -> tuple[str, ...]:
    """The servers that DHCP tells nodes to ask instead of the gateway; none where they ask the gateway."""
    direct = () if net.gateway_answers_dns else net.dns_servers
    return tuple(str(server) for server in direct if isinstance(server, IPv4Address))


def dhcp_ranges(net: Network, fixed: Sequence[IPv4Address], nodes: int) -> tuple[Range, ...]:
    """The pool, and where it alone would be too small, the reserved addresses outside it.

    libvirt allows dnsmasq as many leases as the ranges have addresses, and dnsmasq counts every lease, also those
    outside the ranges: a pool for two with a third node's address beside it would leave one of the three without.
    """
    pool = (net.dhcp_start, net.dhcp_end)
    if nodes <= int(net.dhcp_end) - int(net.dhcp_start) + 1:
        return (pool,)
    return merged([pool, *((each, each) for each in fixed)])


def dnsmasq_options(net: Network) -> tuple[str, ...]:
    """The dnsmasq options every mode shares (dnsmasq(8)). Where root may help, what modes differ in is in files."""
    options = [
        "no-hosts",  # the host's /etc/hosts is the host's business
        "no-ping",  # we own the segment: three seconds less for every lease
        # libvirt's strict-order asks one server after the other; a dead first one would cost seconds per lookup.
        "all-servers",
        # Two gateways that name each other as their servers: one refusal instead of a timeout.
        "dns-loop-detect",
        "domain-needed",  # a name without dots is nobody's but ours
        # Addresses of ours without a name are denied here, and not asked for outside.
        *(f"local=/{zone}/" for zone in reverse_zones(net.subnet)),
    ]
    if net.policy.firewall.enabled or not forwarders(net):
        # Else dnsmasq would ask the host's servers; libvirt says this only where it writes servers.
        options.append("no-resolv")
    if not net.policy.firewall.enabled and (direct := told_directly(net)):
        options.append(f"dhcp-option=option:dns-server,{','.join(direct)}")  # option 6 of DHCP
    return tuple(options)
