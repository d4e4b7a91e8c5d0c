"""Verdicts: a denial is never passed without its controls, and what could not be tested is never passed."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from ai_how.config.terms import Protocol
from ai_how.probe.actions import Action, Forgery, Leaving, Page, Ping, Question, Talk, WhoHas
from ai_how.probe.expectations import Expect, Expectation
from ai_how.probe.judge import Result, Scenario, judge, skipped
from ai_how.probe.packets import Answer
from ai_how.spec.policy import Port

A, B = IPv4Address("10.1.0.2"), IPv4Address("10.2.0.2")
REPLY = Answer(True, "reply in 0.2 ms", 0.2)
SILENCE = Answer(False, "no reply in 1 s", 1000.0)


def expectation(action: Action, expect: Expect, watched: str | None = None) -> Expectation:
    return Expectation("a", "b", action, expect, "because", watched=watched)


def verdict(
    action: Action,
    expect: Expect,
    answer: Answer,
    *,
    watched: bool = False,
    arrived: bool | None = None,
    control: Result = Result.PASSED,
    need: Result = Result.PASSED,
) -> Result:
    beside, below = (
        Scenario(name, "c", "b", Expect.PASS, result, "as it is", 0.1)
        for name, result in (("control", control), ("need", need))
    )
    wanted = expectation(action, expect, "b" if watched or arrived is not None else None)
    return judge(wanted, answer, arrived=arrived, controls=[beside], needs=[below]).result


@pytest.mark.parametrize(
    ("action", "came", "other"),
    [
        (Ping(B), REPLY, SILENCE),
        (WhoHas(B), REPLY, SILENCE),
        (
            Talk(B, Port(Protocol.UDP, 7), seen_as=A),
            Answer(True, "", 0.1, ("10.1.0.2",)),
            Answer(True, "", 0.1, ("203.0.113.2",)),
        ),
        (
            Question(A, "b.internal", "A", ("10.2.0.2",)),
            Answer(True, "", 0.1, ("10.2.0.2",), "NOERROR"),
            Answer(True, "", 0.1, ("198.51.100.80",), "NOERROR"),
        ),
        (
            Question(A, "nobody.b.internal", "A", ()),
            Answer(True, "", 0.1, (), "NXDOMAIN"),
            Answer(True, "", 0.1, ("198.51.100.80",), "NOERROR"),
        ),
        (Page(B, "internet.test"), Answer(True, "", 0.1, ("text",), "200"), Answer(True, "", 0.1, ("text",), "404")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_comes_through_passes_where_it_shall_and_fails_where_it_shall_not(
    action: Action, came: Answer, other: Answer
) -> None:
    assert verdict(action, Expect.PASS, came) is Result.PASSED
    assert verdict(action, Expect.PASS, other) is Result.FAILED
    assert verdict(action, Expect.DENY, came) is Result.FAILED
    assert verdict(action, Expect.DENY, other) is Result.PASSED


def test_a_denial_without_its_control_was_not_tested() -> None:
    assert verdict(Ping(B), Expect.DENY, SILENCE, control=Result.FAILED) is Result.SKIPPED
    assert verdict(Ping(B), Expect.DENY, SILENCE, control=Result.SKIPPED) is Result.SKIPPED


def test_what_needs_something_that_is_not_there_was_not_tested_unless_it_came_through() -> None:
    assert verdict(Ping(B), Expect.PASS, SILENCE, need=Result.FAILED) is Result.SKIPPED
    assert verdict(Ping(B), Expect.DENY, SILENCE, need=Result.FAILED) is Result.SKIPPED
    assert verdict(Ping(B), Expect.PASS, REPLY, need=Result.FAILED) is Result.PASSED
    assert verdict(Ping(B), Expect.DENY, REPLY, need=Result.FAILED) is Result.FAILED


def test_where_nobody_could_look_for_what_is_watched_nothing_is_passed() -> None:
    assert verdict(Ping(B), Expect.DENY, SILENCE, watched=True) is Result.SKIPPED
    assert verdict(Ping(B), Expect.DENY, REPLY, watched=True) is Result.FAILED
    assert verdict(Ping(B), Expect.PASS, REPLY, watched=True) is Result.SKIPPED
    assert verdict(Ping(B), Expect.PASS, SILENCE, watched=True) is Result.FAILED


def test_a_leak_is_a_failure_whatever_became_of_the_control() -> None:
    assert verdict(Ping(B), Expect.DENY, REPLY, control=Result.FAILED) is Result.FAILED


def test_a_packet_that_arrived_is_a_leak_even_if_its_answer_did_not() -> None:
    assert verdict(Ping(B), Expect.DENY, SILENCE, arrived=True) is Result.FAILED
    assert verdict(Ping(B), Expect.DENY, SILENCE, arrived=False) is Result.PASSED


def test_an_answer_to_a_packet_that_never_arrived_is_somebody_else_s() -> None:
    assert verdict(Ping(B), Expect.PASS, REPLY, arrived=False) is Result.FAILED


@pytest.mark.parametrize("action", [Forgery(A, B), Leaving(A, "b.internal", "A")], ids=["forgery", "leaving"])
@pytest.mark.parametrize("answer", [REPLY, SILENCE], ids=["reply", "silence"])
def test_of_packets_without_an_answer_only_what_was_seen_counts(action: Action, answer: Answer) -> None:
    assert verdict(action, Expect.PASS, answer, arrived=True) is Result.PASSED
    assert verdict(action, Expect.PASS, answer, arrived=False) is Result.FAILED
    assert verdict(action, Expect.PASS, answer, arrived=None) is Result.SKIPPED
    assert verdict(action, Expect.DENY, answer, arrived=False) is Result.PASSED
    assert verdict(action, Expect.DENY, answer, arrived=True) is Result.FAILED


def test_a_packet_without_an_answer_that_nobody_watched_for_was_not_tested() -> None:
    assert verdict(Forgery(A, B), Expect.DENY, SILENCE, arrived=None) is Result.SKIPPED


def test_the_report_says_what_was_seen_instead() -> None:
    want = expectation(Talk(B, Port(Protocol.TCP, 7), seen_as=A), Expect.PASS)
    told = judge(want, Answer(True, "connected", 0.1, ("203.0.113.2",)), arrived=None, controls=[])
    assert told.detail == "it came as from 203.0.113.2 and not from 10.1.0.2"


def test_a_skipped_scenario_says_what_was_missing() -> None:
    told = skipped(expectation(Ping(B), Expect.PASS), "there is no Consul here")
    assert told.to_json() == {
        "name": "a → b: ping 10.2.0.2",
        "from": "a",
        "to": "b",
        "expect": "pass",
        "result": "skipped",
        "detail": "there is no Consul here",
        "ms": 0.0,
    }
