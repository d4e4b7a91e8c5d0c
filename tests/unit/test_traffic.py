"""Where nodes are looked for after a restart of their network."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from tests.unit.test_resources import DOMAIN, NETWORK

from ai_how.engine.traffic import addresses
from ai_how.engine.wait import Lease
from ai_how.resources.network import Reservation

RESERVED, LEASED, BEFORE = (IPv4Address(f"10.0.0.{last}") for last in (2, 30, 40))
ELSEWHERE = IPv4Address("10.9.0.2")
NET = replace(
    NETWORK, subnet=IPv4Network("10.0.0.0/24"), reservations=(Reservation(RESERVED, DOMAIN.mac, DOMAIN.name),)
)


def lease(ip: IPv4Address, mac: str = DOMAIN.mac) -> Lease:
    return Lease(mac, ip, DOMAIN.name, 0)


def test_node_is_at_its_reservation_its_lease_or_where_it_was() -> None:
    found = addresses([DOMAIN], NET, [lease(LEASED), lease(ELSEWHERE)], {DOMAIN.name: BEFORE})
    assert found == {DOMAIN.name: {RESERVED, LEASED, BEFORE}}


def test_addresses_of_the_subnet_that_was_are_not_looked_at() -> None:
    found = addresses([DOMAIN], NET, [lease(ELSEWHERE)], {DOMAIN.name: ELSEWHERE})
    assert found == {DOMAIN.name: {RESERVED}}


def test_other_nodes_addresses_are_theirs_and_a_stopped_node_is_nowhere() -> None:
    other = replace(DOMAIN, name="lab-compute-01", mac="52:54:00:00:00:07")
    stopped = replace(DOMAIN, name="lab-compute-02", mac="52:54:00:00:00:08", running=False)
    found = addresses([DOMAIN, other, stopped], NET, [lease(LEASED, other.mac)], {})
    assert found == {DOMAIN.name: {RESERVED}, other.name: {LEASED}}
