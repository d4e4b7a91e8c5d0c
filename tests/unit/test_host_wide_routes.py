"""Routes of a host: what is read from iproute2, and what the LAN must be told."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from ai_how.host.routes import Hop, Way, read_hops, read_routes, read_uplinks, read_way, return_routes

#: Two uplinks with metrics, one that forks, a VPN in two halves, one with a table of its own, and what is none.
ROUTES = """[
 {"dst":"default","gateway":"203.0.113.1","dev":"eth0","protocol":"dhcp","metric":100,"flags":[]},
 {"dst":"default","gateway":"198.51.100.1","dev":"wlan0","protocol":"dhcp","metric":600,"flags":[]},
 {"dst":"default","metric":700,"flags":[],"nexthops":[
   {"gateway":"192.0.2.1","dev":"bond0","weight":1,"flags":[]},
   {"gateway":"192.0.2.9","dev":"bond1","weight":1,"flags":[]}]},
 {"dst":"0.0.0.0/1","gateway":"10.8.0.1","dev":"tun0","flags":[]},
 {"dst":"128.0.0.0/1","gateway":"10.8.0.1","dev":"tun0","flags":[]},
 {"dst":"default","dev":"wg0","table":"51820","flags":[]},
 {"type":"unreachable","dst":"default","dev":"lo","metric":4278198272,"flags":[]},
 {"dst":"224.0.0.0/4","dev":"eth9","flags":[]},
 {"dst":"10.60.0.0/16","gateway":"203.0.113.9","dev":"eth0","protocol":"97","flags":[]},
 {"dst":"10.61.0.0/16","gateway":"203.0.113.9","dev":"eth0","protocol":"static","flags":[]},
 {"dst":"10.62.0.0/16","gateway":"203.0.113.9","dev":"eth0","table":"7","protocol":"97","flags":[]},
 {"dst":"10.63.0.0/16","flags":[],"nexthops":[{"gateway":"192.0.2.1","dev":"bond0","weight":1,"flags":[]}]},
 {"type":"local","dst":"203.0.113.2","dev":"eth0","table":"local","protocol":"kernel","flags":[]}
]"""


def test_every_link_that_leads_outside_is_an_uplink_and_no_other() -> None:
    assert read_uplinks(ROUTES) == ("bond0", "bond1", "eth0", "tun0", "wg0", "wlan0")
    assert read_uplinks("") == ()


def test_route_that_forks_leads_to_a_network_too() -> None:
    assert ("10.63.0.0/16", "bond0") in {(str(route.network), route.link) for route in read_routes(ROUTES)}


def test_route_is_ours_by_its_protocol_in_the_main_table() -> None:
    hops = {str(hop.to): hop for hop in read_hops(ROUTES)}
    router = IPv4Address("203.0.113.9")
    assert hops["10.60.0.0/16"] == Hop(IPv4Network("10.60.0.0/16"), router, "eth0", ours=True)
    assert hops["10.61.0.0/16"] == Hop(IPv4Network("10.61.0.0/16"), router, "eth0", ours=False)
    assert "10.62.0.0/16" not in hops


def test_way_to_an_address_has_its_link_and_the_own_address_there() -> None:
    by_router = (
        '[{"dst":"10.77.0.1","gateway":"203.0.113.1","dev":"up0","prefsrc":"203.0.113.2","flags":[],"cache":[]}]'
    )
    assert read_way(by_router) == Way("up0", IPv4Address("203.0.113.2"))
    to_itself = '[{"type":"local","dst":"203.0.113.2","dev":"lo","prefsrc":"203.0.113.2","flags":[],"cache":["local"]}]'
    assert read_way(to_itself) is None


def test_lan_is_told_each_way_back_once() -> None:
    ways = [Way("eth1", IPv4Address("10.1.0.9")), Way("eth0", IPv4Address("203.0.113.2"))]
    told = return_routes([IPv4Network("192.168.100.0/24")], [*ways, *ways])
    assert told == (
        "ip route add 192.168.100.0/24 via 10.1.0.9",
        "ip route add 192.168.100.0/24 via 203.0.113.2",
    )
    assert return_routes([IPv4Network("192.168.100.0/24")], []) == ()
