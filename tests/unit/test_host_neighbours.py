"""Asking who is there, byte by byte, and iproute2's neighbour table."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from ai_how.host.neighbours import read_neighbours, read_reply, request

GATEWAY, NODE = IPv4Address("10.44.0.1"), IPv4Address("10.44.0.2")
MAC, NODES_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")

#: What a Linux guest answered to such a request, padded to Ethernet's least length by a real network card.
REPLY = MAC + NODES_MAC + bytes.fromhex("0806 0001 0800 06 04 0002") + NODES_MAC + NODE.packed + MAC + GATEWAY.packed

TABLE = """[
{"dst":"10.44.0.2","dev":"br-hpc","lladdr":"52:54:00:00:00:02","state":["REACHABLE"]},
{"dst":"10.44.0.3","dev":"br-hpc","lladdr":"52:54:00:00:00:03","state":["STALE"]},
{"dst":"10.44.0.4","dev":"br-hpc","state":["INCOMPLETE"]},
{"dst":"10.44.0.5","dev":"br-hpc","state":["FAILED"]},
{"dst":"10.44.0.6","dev":"br-other","lladdr":"52:54:00:00:00:06","state":["REACHABLE"]}]
"""


def test_request_is_laid_out_as_rfc_826_has_it_and_names_its_sender() -> None:
    frame = request(MAC, GATEWAY, NODE)
    assert frame[:14] == b"\xff" * 6 + MAC + bytes.fromhex("0806")
    assert frame[14:22] == bytes.fromhex("0001 0800 06 04 0001")
    # A request without a sender would be a claim to the address (RFC 5227).
    assert frame[22:32] == MAC + GATEWAY.packed
    assert frame[32:] == bytes(6) + NODE.packed


@pytest.mark.parametrize("padding", [0, 18])
def test_reply_says_who_answers(padding: int) -> None:
    assert read_reply(REPLY + bytes(padding)) == NODE


@pytest.mark.parametrize(
    "frame", [b"", REPLY[:30], request(MAC, GATEWAY, NODE), REPLY.replace(b"\x08\x06", b"\x08\x00")]
)
def test_what_is_no_reply_says_nothing(frame: bytes) -> None:
    assert read_reply(frame) is None


def test_neighbours_of_one_link_that_the_kernel_has_not_found_silent() -> None:
    assert read_neighbours(TABLE, "br-hpc") == {NODE, IPv4Address("10.44.0.3")}
    assert read_neighbours("", "br-hpc") == frozenset()
