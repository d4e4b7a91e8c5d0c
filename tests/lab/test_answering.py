"""Who answers on a bridge, asked by root and by somebody who is not; the bridge has one neighbour in a namespace."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from ai_how.engine.answering import answering

BRIDGE = "answers"
THERE, SILENT = IPv4Address("10.61.0.2"), IPv4Address("10.61.0.3")

#: Seconds for who is there, whose port on the bridge may be about to forward yet; and where silence is waited for, too.
PATIENCE, LOOK = 60.0, 2.0

#: Asks as a user without any capability.
UNPRIVILEGED = f"""
import os
from ipaddress import IPv4Address
from ai_how.engine.answering import answering
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(*answering("{BRIDGE}", [IPv4Address("{THERE}"), IPv4Address("{SILENT}")], 3.0))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge, 10.61.0.1, with 10.61.0.2 behind it."""
    ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    ip("netns", "add", BRIDGE)
    try:
        ip("addr", "add", "10.61.0.1/24", "dev", BRIDGE)
        ip("link", "add", "answers-port", "master", BRIDGE, "type", "veth", "peer", "name", "eth0", "netns", BRIDGE)
        for words in (["addr", "add", f"{THERE}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            ip("-n", BRIDGE, *words)
        ip("link", "set", "answers-port", "up")
        ip("link", "set", BRIDGE, "up")
        assert answering(BRIDGE, [THERE], PATIENCE) == {THERE}
        yield BRIDGE
    finally:
        # With its namespace the port would go by itself, a moment later. The bridge a test may have deleted.
        for link in ("answers-port", BRIDGE):
            subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
        ip("netns", "del", BRIDGE)


def test_who_is_there_answers_at_once_and_who_is_not_is_waited_for(bridge: str) -> None:
    begin = time.monotonic()
    assert answering(bridge, [THERE], PATIENCE) == {THERE}
    assert time.monotonic() - begin < PATIENCE / 2
    assert answering(bridge, [THERE, SILENT], LOOK) == {THERE}


def test_root_sees_at_once_that_somebody_fell_silent(bridge: str) -> None:
    ip("-n", BRIDGE, "link", "set", "eth0", "down")
    assert answering(bridge, [THERE], 1.0) == frozenset()


@pytest.mark.parametrize("words", [("set", BRIDGE, "down"), ("del", BRIDGE)], ids=["set down", "deleted"])
def test_behind_a_bridge_that_goes_while_somebody_is_awaited_is_nobody(bridge: str, words: tuple[str, ...]) -> None:
    going = threading.Timer(0.5, ip, ("link", *words))
    going.start()
    assert answering(bridge, [SILENT], 1.5) == frozenset()
    going.join()


def test_a_thousand_are_asked_without_filling_the_kernels_table(bridge: str) -> None:
    many = [IPv4Address("10.61.0.0") + number for number in range(2, 1002)]
    ip("addr", "add", "10.61.0.1/16", "dev", bridge)
    assert answering(bridge, many, LOOK) == {THERE}
    table = subprocess.run(["ip", "neigh", "show", "dev", bridge], check=True, capture_output=True, text=True).stdout
    assert len(table.splitlines()) < 10


def test_whoever_may_not_ask_has_the_kernel_ask(bridge: str) -> None:
    ran = subprocess.run([sys.executable, "-c", UNPRIVILEGED], check=False, capture_output=True, text=True)
    assert (ran.stdout.split(), ran.stderr) == ([str(THERE)], "")


def test_behind_a_bridge_without_an_address_or_that_is_not_there_is_nobody(bridge: str) -> None:
    ip("addr", "flush", "dev", bridge)
    assert answering(bridge, [THERE], 0.5) == frozenset()
    assert answering("not-there", [THERE], 0.5) == frozenset()
