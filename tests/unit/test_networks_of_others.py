"""Networks of the host that somebody else made: ai-how reads them all, to stay out of their way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from ai_how.engine.observe import Observed, known
from ai_how.host.routes import Route
from ai_how.resources.network import VirtualNetwork, read_network

IPV6 = """
<network><name>six</name><bridge name='br6'/><ip family='ipv6' address='fd00::1' prefix='64'/></network>
"""
BOTH = """
<network><name>both</name><bridge name='br46'/>
  <dns><host ip='fd00::2'><hostname>a</hostname></host><host ip='10.1.0.2'><hostname>b</hostname></host></dns>
  <ip family='ipv6' address='fd00::1' prefix='64'>
    <dhcp><range start='fd00::10' end='fd00::99'/><host id='0:1' name='a' ip='fd00::20'/></dhcp></ip>
  <ip family='ipv4' address='10.1.0.1' prefix='24'>
    <dhcp><range start='10.1.0.10' end='10.1.0.99'/><host mac='52:54:00:00:00:01' ip='10.1.0.20'/></dhcp></ip>
  <ip address='10.2.0.1' netmask='255.255.255.0'/>
</network>
"""


def read(text: str) -> VirtualNetwork:
    return read_network(text, active=True, autostart=True)


def test_network_that_speaks_ipv6_alone_takes_no_ipv4_subnet() -> None:
    assert known(Observed((), (read(IPV6),)), (), "mine").taken == ()


def test_ipv4_part_of_a_network_is_read_wherever_it_stands() -> None:
    network = read(BOTH)
    assert network.subnet == IPv4Network("10.1.0.0/24")
    assert network.dhcp_ranges == ((IPv4Address("10.1.0.10"), IPv4Address("10.1.0.99")),)
    assert [str(each.ip) for each in network.reservations] == ["10.1.0.20"]
    assert [str(each.ip) for each in network.dns_hosts] == ["10.1.0.2"]


def test_every_subnet_behind_a_bridge_is_in_use() -> None:
    """The second one of a network shows as a route through its bridge."""
    second = Route(IPv4Network("10.2.0.0/24"), "br46")
    taken = dict(known(Observed((), (read(BOTH),)), (second,), "mine").taken)
    assert taken == {
        IPv4Network("10.1.0.0/24"): "network both",
        IPv4Network("10.2.0.0/24"): "a route of this host through br46",
    }
