"""Trying what is expected: everything that shall pass first, then everything that shall not, many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from ai_how.config.terms import Protocol
from ai_how.probe import packets
from ai_how.probe.actions import (
    Action,
    Addressed,
    Forgery,
    Leased,
    Leaving,
    Owner,
    Page,
    Ping,
    Question,
    Reaches,
    Resolves,
    Served,
    Sized,
    Talk,
    WhoHas,
)
from ai_how.probe.dhcp import Lease
from ai_how.probe.expectations import Expect, Expectation
from ai_how.probe.guest import Guest
from ai_how.probe.judge import Scenario, came_through, judge, skipped
from ai_how.probe.packets import Answer, NotTested
from ai_how.probe.place import Place
from ai_how.probe.responder import Tap

#: What shall pass is tried again, as a user would; what shall not is asked once, and its first answer counts.
ATTEMPTS = 3

#: Seconds from one attempt to the next, at least: who refuses, or knows no such name yet, does so at once.
_AGAIN = 0.5

#: Each takes a descriptor or two, of which a process has 1,024 as a rule.
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Spot:
    """A place as a run uses it: its link, what is noted there, and its lease if it has one, or why DHCP gave none.
    With a `guest` that is asked, and nothing else."""

    place: Place
    link: str = ""
    tap: Tap | None = None
    lease: Lease | None = None
    trouble: str = ""
    guest: Guest | None = None


#: Told how many of how many are answered.
Told = Callable[[int, int], None]

#: Told of every scenario as soon as it is judged.
Judged = Callable[[Expectation, Scenario], None]


def run(
    expectations: Iterable[Expectation],
    spots: Mapping[str, Spot],
    told: Told = lambda _done, _all: None,
    judged: Judged = lambda _expectation, _scenario: None,
    *,
    attempts: int = ATTEMPTS,
) -> dict[Expectation, Scenario]:
    """Every expectation, every control of one and what it needs, with what became of it. `spots` are the places by
    name. What shall pass is tried up to so many times."""
    everything = with_controls(expectations)
    answers: dict[Expectation, Answer | str] = {}
    scenarios: dict[Expectation, Scenario] = {}
    # What shall pass first: whoever was to answer a denied packet would be busy with it, and denials are judged by it.
    for kind in (Expect.PASS, Expect.DENY):
        part = [each for each in everything if each.expect is kind]
        asyncio.run(_answers(part, spots, answers, lambda done: told(done, len(everything)), attempts))
        # Taps are read when all is sent and answered: a packet that took its time is found, too.
        for each in part:  # controls before what they control
            scenarios[each] = _judge(each, answers[each], spots, scenarios)
            judged(each, scenarios[each])
    return {each: scenarios[each] for each in everything}


def _judge(
    each: Expectation, answer: Answer | str, spots: Mapping[str, Spot], scenarios: Mapping[Expectation, Scenario]
) -> Scenario:
    if isinstance(answer, str):
        return skipped(each, answer)
    tap = None if each.watched is None else spots[each.watched].tap
    controls, needs = ([scenarios[other] for other in others] for others in (each.controls, each.needs))
    arrived = None if tap is None else tap.saw(answer.token)
    return judge(each, answer, arrived=arrived, controls=controls, needs=needs)


def with_controls(expectations: Iterable[Expectation]) -> list[Expectation]:
    """All of them once, each after its controls and what it needs."""
    found: dict[Expectation, None] = {}

    def add(each: Expectation) -> None:
        if each not in found:
            for other in (*each.controls, *each.needs):
                add(other)
            found[each] = None

    for each in expectations:
        add(each)
    return list(found)


async def _answers(
    expectations: Iterable[Expectation],
    spots: Mapping[str, Spot],
    answers: dict[Expectation, Answer | str],
    told: Callable[[int], None],
    attempts: int,
) -> None:
    """Adds to `answers` what came back for each, or why it could not be tried."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(each: Expectation) -> None:
        async with room:
            answers[each] = await _answer(each, spots, attempts)
        told(len(answers))

    await asyncio.gather(*(one(each) for each in expectations))


async def _answer(expectation: Expectation, spots: Mapping[str, Spot], attempts: int) -> Answer | str:
    if expectation.missing:
        return expectation.missing
    for name in (expectation.frm, *([expectation.watched] if expectation.watched else ())):
        if name not in spots:
            return f"there is no place {name} in this run"
    spot = spots[expectation.frm]
    if expectation.expect is Expect.DENY or isinstance(expectation.action, Forgery | Leaving):
        attempts = 1
    for left in reversed(range(attempts)):
        begin = time.monotonic()
        try:
            answer = await act(expectation.action, spot)
        except NotTested as error:
            return str(error)
        if came_through(expectation.action, answer)[0] or not left:
            break
        await asyncio.sleep(begin + _AGAIN - time.monotonic())
    return await _with_size(expectation, answer, spot)


async def _with_size(expectation: Expectation, answer: Answer, spot: Spot) -> Answer:
    """`answer`, and, where a packet of the whole MTU has not arrived, which one does."""
    action = expectation.action
    if answer.replied or not isinstance(action, Sized):
        return answer
    size = await packets.whole_size(spot.place, action.to, action.mtu)
    said = "and no smaller one" if size is None else f"one of {size} bytes arrives"
    return replace(answer, detail=f"{answer.detail}; {said}")


async def act(action: Action, spot: Spot) -> Answer:
    """Do it once. Raises NotTested."""
    place = spot.place
    if spot.guest is not None:
        return await asyncio.to_thread(_inside, action, spot.guest)
    match action:
        case Ping(to):
            return await packets.ping(place, to)
        case Talk(to, port, _, leads_to):
            if port.protocol is Protocol.UDP:
                return await packets.udp(place, to, port.number)
            answer = await packets.tcp(place, to, port.number)
            return answer if leads_to is None else replace(answer, token=packets.translated(answer.token, *leads_to))
        case Question(server, name, kind) | Leaving(server, name, kind):
            return await packets.dns(place, server, name, kind)
        case Served(server, name, protocol):
            return await packets.dns(place, server, name, over_tcp=protocol is Protocol.TCP)
        case Page(to, host):
            return await packets.http(place, to, host)
        case Forgery(source, to):
            return await packets.forged(place, source, to)
        case WhoHas(to):
            return await packets.arp(place, spot.link, to)
        case Owner(to):
            return await packets.arp(place, spot.link, to, everyone=True)
        case Sized(to, mtu):
            return await packets.ping(place, to, whole=mtu)
        case Resolves(server, name):
            return await packets.dns(place, server, name)
        case Leased():
            return _compare(action, spot)
        case Addressed() | Reaches():
            raise NotTested(f"{place.name} is no machine", why="it has no agent")
        case _:
            assert_never(action)


def _inside(action: Action, guest: Guest) -> Answer:
    match action:
        case Ping(to):
            return guest.ping(str(to))
        case Reaches(name):
            return guest.ping(name)
        case Addressed(ip, mac):
            return guest.has(ip, mac)
        case _:
            raise NotTested(f"{guest.name} cannot be told to try: {action}")


def _compare(want: Leased, spot: Spot) -> Answer:
    lease = spot.lease
    if spot.trouble:
        return Answer(False, spot.trouble, 0.0)
    if lease is None:
        raise NotTested(f"{spot.place.name} has no lease", why="it is no endpoint")
    pairs = (
        ("address", want.ip or lease.ip, lease.ip),
        ("gateway", (want.router,), lease.routers),
        ("DNS servers", want.dns, lease.dns),
        ("MTU", want.mtu, lease.mtu),
        ("DHCP servers", (want.router,), lease.servers),
    )
    wrong = [f"{name} {_said(got)} and not {_said(wanted)}" for name, wanted, got in pairs if wanted != got]
    return Answer(not wrong, "; ".join(wrong) or f"{lease.ip} in {lease.took * 1000:.1f} ms", lease.took * 1000)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
