"""DHCP messages byte by byte."""

from __future__ import annotations

from ipaddress import IPv4Address

from ai_how.host.dhcp import release_message

SERVER, CLIENT, MAC = IPv4Address("192.168.100.1"), IPv4Address("192.168.100.10"), "52:54:00:12:34:02"


def test_release_is_laid_out_as_rfc_2131_has_it() -> None:
    message = release_message(SERVER, CLIENT, MAC)
    assert message[:4] == bytes([1, 1, 6, 0])  # request, Ethernet, six octets, no hops
    assert message[12:16] == CLIENT.packed  # ciaddr
    assert message[28:44] == bytes.fromhex("525400123402") + bytes(10)  # chaddr
    assert message[236:240] == bytes.fromhex("63825363")
    assert message[240:] == bytes([53, 1, 7, 54, 4]) + SERVER.packed + bytes([255])


def test_every_release_has_its_own_transaction() -> None:
    assert len({release_message(SERVER, CLIENT, MAC)[4:8] for _ in range(20)}) > 1
