"""The DHCP client's messages, against a captured exchange with dnsmasq."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface

import pytest

from ai_how.probe.dhcp import Message, Option, Reply, message, read_lease, read_reply
from ai_how.probe.packets import checksum, is_echo_reply, name_in_query

MAC = "52:54:00:00:00:10"
SERVER = IPv4Address("10.9.7.1")


def reply(kind: Message, options: bytes, *, operation: int = 2, end: bytes = b"\xff") -> bytes:
    address = IPv4Address("10.9.7.10").packed
    fixed = struct.pack(">BBBB4sHH4s4s216x", operation, 1, 6, 0, b"abcd", 0, 0, b"", address)
    return fixed + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + end


OPTIONS = (
    bytes([54, 4]) + SERVER.packed
    + bytes([51, 4]) + (3600).to_bytes(4)
    + bytes([1, 4, 255, 255, 255, 0])
    + bytes([0, 0])  # padding
    + bytes([3, 4]) + SERVER.packed
    + bytes([6, 8]) + SERVER.packed + IPv4Address("8.8.8.8").packed
    + bytes([12, 5]) + b"alpha"
    + bytes([15, 11]) + b"n.internal\0"
    + bytes([26, 2, 5, 170])
)  # fmt: skip


def test_a_lease_is_what_the_acknowledgement_says() -> None:
    ack = read_reply(reply(Message.ACK, OPTIONS))
    assert ack is not None
    assert (ack.message, ack.server, ack.transaction) == (Message.ACK, SERVER, b"abcd")
    lease = read_lease(ack, SERVER, (SERVER,), 0.1)
    assert lease.interface == IPv4Interface("10.9.7.10/24")
    assert lease.routers == (SERVER,)
    assert lease.dns == (SERVER, IPv4Address("8.8.8.8"))
    assert (lease.host_name, lease.domain, lease.mtu, lease.seconds) == ("alpha", "n.internal", 1450, 3600)


def test_options_that_nobody_sent_are_empty() -> None:
    ack = read_reply(reply(Message.ACK, b""))
    assert ack is not None
    lease = read_lease(ack, SERVER, (), 0.1)
    assert (lease.routers, lease.dns, lease.host_name, lease.mtu) == ((), (), "", None)
    assert lease.interface.network.prefixlen == 32


@pytest.mark.parametrize("length", range(0, 300, 7))
def test_messages_cut_short_are_no_trouble(length: int) -> None:
    whole = reply(Message.OFFER, OPTIONS)
    found = read_reply(whole[:length])
    assert found is None or isinstance(found, Reply)


def test_what_clients_say_is_no_reply() -> None:
    assert read_reply(message(Message.DISCOVER, b"abcd", MAC)) is None
    assert read_reply(reply(Message.OFFER, OPTIONS, operation=1)) is None


def test_a_request_names_the_server_and_the_address() -> None:
    said = message(Message.REQUEST, b"abcd", MAC, requested=IPv4Address("10.9.7.10"), server=SERVER)
    assert said[4:8] == b"abcd"
    assert said[28:34] == bytes.fromhex(MAC.replace(":", ""))
    assert bytes([Option.REQUESTED, 4, 10, 9, 7, 10]) in said
    assert bytes([Option.SERVER, 4, 10, 9, 7, 1]) in said


@pytest.mark.parametrize("mask", ["255.0.255.0", "1.2.3.4"])
def test_a_mask_that_is_none_is_told_from_others(mask: str) -> None:
    ack = read_reply(reply(Message.ACK, bytes([Option.MASK, 4]) + IPv4Address(mask).packed))
    assert ack is not None
    with pytest.raises(ValueError, match=mask):
        read_lease(ack, SERVER, (), 0.1)


def test_a_release_comes_from_the_address_and_asks_for_nothing() -> None:
    said = message(Message.RELEASE, b"abcd", MAC, client=IPv4Address("10.9.7.10"), server=SERVER)
    assert said[12:16] == IPv4Address("10.9.7.10").packed
    assert bytes([Option.WANTED]) not in said[240:]


def test_the_checksum_of_a_message_with_its_checksum_is_zero() -> None:
    # The example of RFC 1071, section 3.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert checksum(bytes.fromhex("0001f203f4f5f6f7220d")) == 0
    assert checksum(b"\x01") == 0xFEFF


@pytest.mark.parametrize(
    ("kind", "of_six", "replies"),
    [(0, False, True), (3, False, False), (8, False, False), (129, True, True), (1, True, False), (128, True, False)],
    ids=["reply", "unreachable", "request", "reply, IPv6", "unreachable, IPv6", "request, IPv6"],
)
def test_only_a_reply_is_the_reply_of_a_ping(kind: int, of_six: bool, replies: bool) -> None:
    # An error, such as of a rule that rejects, quotes the whole request.
    header = b"" if of_six else b"\x45" + bytes(19)
    assert is_echo_reply(header + bytes([kind]) + bytes(7) + b"token", b"token", version6=of_six) is replies
    assert not is_echo_reply(header + bytes([kind]) + bytes(7) + b"other", b"token", version6=of_six)


def test_names_look_as_on_the_wire() -> None:
    assert name_in_query("a.bc.") == b"\x01a\x02bc\0"
