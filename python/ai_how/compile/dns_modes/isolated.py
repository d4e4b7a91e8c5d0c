"""`isolated`: NAT to the outside, cluster names at the gateway, everything else forwarded."""

from __future__ import annotations

from ipaddress import IPv4Address

from ai_how.resources.network import DnsHost, Forward, Reservation, VirtualNetwork
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
        dhcp_range=(net.dhcp_start, net.dhcp_end),
        reservations=tuple(sorted(Reservation(ip, node.mac, node.name) for node, ip in fixed)),
        dns_hosts=tuple(sorted(DnsHost(ip, (node.name,)) for node, ip in fixed)),
        forwarders=tuple(str(server) for server in net.forwarders) if net.gateway_answers_dns else (),
        dnsmasq_options=dnsmasq_options(net, len(fixed)),
        active=active,
        autostart=active,
    )


def dnsmasq_options(net: Network, reserved: int) -> tuple[str, ...]:
    """The dnsmasq options every mode shares (dnsmasq(8)); `reserved` is the number of reservations."""
    options = [
        "no-hosts",  # the host's /etc/hosts is the host's business
        "no-ping",  # we own the segment: three seconds less for every lease
        # libvirt's strict-order asks one server after the other; a dead first one would cost seconds per lookup.
        "all-servers",
        # libvirt counts the pool only, but dnsmasq counts every lease, those reserved outside the pool too.
        f"dhcp-lease-max={int(net.dhcp_end) - int(net.dhcp_start) + 1 + reserved}",
    ]
    if not net.gateway_answers_dns:
        direct = [str(server) for server in net.dns_servers if isinstance(server, IPv4Address)]
        options.append(f"dhcp-option=option:dns-server,{','.join(direct)}")
    return tuple(options)
