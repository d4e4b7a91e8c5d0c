"""What is measured, counted and named, without packets."""

from __future__ import annotations

import pytest

from ai_how.probe.measure import Latency, Rate
from ai_how.probe.perf import Measured, Performance, read_pings

IPUTILS = """\
PING 10.44.0.10 (10.44.0.10) 56(84) bytes of data.
64 bytes from 10.44.0.10: icmp_seq=1 ttl=64 time=2.31 ms
64 bytes from 10.44.0.10: icmp_seq=2 ttl=64 time=0.412 ms
64 bytes from 10.44.0.10: icmp_seq=4 ttl=64 time=0.388 ms

--- 10.44.0.10 ping statistics ---
6 packets transmitted, 3 received, 50% packet loss, time 1003ms
rtt min/avg/max/mdev = 0.388/1.036/2.310/0.900 ms, ipg/ewma 0.612/2.104 ms
"""
BUSYBOX = """\
PING 10.44.0.10 (10.44.0.10): 56 data bytes
64 bytes from 10.44.0.10: seq=0 ttl=64 time=5.931 ms
64 bytes from 10.44.0.10: seq=1 ttl=64 time=1.100 ms

--- 10.44.0.10 ping statistics ---
3 packets transmitted, 2 packets received, 33% packet loss
round-trip min/avg/max = 1.100/3.515/5.931 ms
"""


@pytest.mark.parametrize(("percent", "ms"), [(50, 50.0), (90, 90.0), (99, 99.0), (100, 100.0), (1, 1.0)])
def test_a_percentile_is_a_round_trip_that_was_measured(percent: int, ms: float) -> None:
    assert Latency(tuple(float(each) for each in range(100, 0, -1))).percentile(percent) == ms


@pytest.mark.parametrize("percent", [1, 50, 99])
def test_every_percentile_of_one_round_trip_is_that_one(percent: int) -> None:
    assert Latency((0.5,)).percentile(percent) == 0.5


def test_rounds_are_one_measurement() -> None:
    assert Latency((1.0,), 1) + Latency((2.0, 3.0)) == Latency((1.0, 2.0, 3.0), 1)
    both = Rate(10, 1.0) + Rate(50, 2.0, lost=2)
    assert (both.per_second, both.lost) == (20.0, 2)


def test_pings_of_iputils_without_the_first_and_without_the_one_under_way() -> None:
    assert read_pings(IPUTILS) == Latency((0.412, 0.388), lost=2)


def test_pings_of_busybox() -> None:
    assert read_pings(BUSYBOX) == Latency((1.1,), lost=0)


def test_no_ping_is_no_round_trip() -> None:
    assert read_pings("PING 10.44.0.10 (10.44.0.10): 56 data bytes\n").ms == ()
    assert read_pings("3 packets transmitted, 0 received, 100% packet loss").lost == 2


def test_what_was_not_measured_is_null_with_its_reason_and_not_zero() -> None:
    found = Performance(
        "a",
        "b",
        2.0,
        latency=Measured("a", "b", None, Latency((0.5,)), why="b does not answer"),
        tcp=Measured("a", "b", Rate(1_000_000, 1.0), None, floor_why="no floor"),
        dns=Measured("a", "gateway", Rate(30_000, 2.0, lost=3), Rate(60_000, 2.0)),
    )
    assert not found.whole
    told = found.to_json()
    assert (told["latency_ms"]["measured"], told["latency_ms"]["why"]) == (None, "b does not answer")
    assert told["latency_ms"]["floor"] == {"p50": 0.5, "p90": 0.5, "p99": 0.5, "count": 1, "lost": 0}
    assert (told["tcp_bits_per_second"]["measured"], told["tcp_bits_per_second"]["floor"]) == (8_000_000, None)
    assert (told["dns_queries_per_second"]["measured"], told["dns_queries_per_second"]["floor"]) == (15_000, 30_000)
