"""What an answer means for an expectation: pure. "Could not test" is never "passed"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

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
from ai_how.probe.expectations import Expect, Expectation
from ai_how.probe.packets import Answer


class Result(StrEnum):
    """What became of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One expectation and what became of it; `ms` is how long the answer took, or was waited for."""

    name: str
    frm: str
    to: str
    expect: Expect
    result: Result
    detail: str
    ms: float

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "from": self.frm,
            "to": self.to,
            "expect": self.expect.value,
            "result": self.result.value,
            "detail": self.detail,
            "ms": round(self.ms, 1),
        }


def skipped(expectation: Expectation, reason: str) -> Scenario:
    """It could not be tested."""
    return _scenario(expectation, Result.SKIPPED, reason, 0.0)


def judge(
    expectation: Expectation,
    answer: Answer,
    *,
    arrived: bool | None,
    controls: Iterable[Scenario],
    needs: Iterable[Scenario] = (),
) -> Scenario:
    """The verdict. `arrived` is what was seen at the place that is watched, None where nobody could look.

    A denial whose controls did not pass, or what it needs, is not tested: nothing at all may be passing. Neither is
    what failed for want of something that it needs.
    """
    passed, detail = came_through(expectation.action, answer)
    unseen = f"what arrives at {expectation.watched} could not be seen: {detail}"
    blind = arrived is None and (expectation.watched is not None or isinstance(expectation.action, Leaving | Forgery))
    if expectation.expect is Expect.PASS:
        if blind and (passed or isinstance(expectation.action, Leaving | Forgery)):
            return _scenario(expectation, Result.SKIPPED, unseen, answer.ms)
        if isinstance(expectation.action, Leaving | Forgery):
            # Nothing comes back from these: what was seen where they went is all there is.
            passed = arrived is True
        elif passed and arrived is False:
            passed, detail = False, f"{detail}, but {expectation.watched} did not see it arrive"
        lacking = [] if passed else [each for each in needs if each.result is not Result.PASSED]
        if lacking:
            return _scenario(expectation, Result.SKIPPED, _said(lacking), answer.ms)
        return _scenario(expectation, Result.PASSED if passed else Result.FAILED, detail, answer.ms)
    if arrived:
        detail = f"it arrived at {expectation.watched}" + ("" if passed else f" ({detail})")
        return _scenario(expectation, Result.FAILED, detail, answer.ms)
    if passed:
        return _scenario(expectation, Result.FAILED, detail, answer.ms)
    if blind:
        return _scenario(expectation, Result.SKIPPED, unseen, answer.ms)
    without = [each for each in (*controls, *needs) if each.result is not Result.PASSED]
    if without:
        failed = any(each.result is Result.FAILED for each in without)
        reason = f"its control did not pass: {_said(without)}" if failed else _said(without)
        return _scenario(expectation, Result.SKIPPED, reason, answer.ms)
    return _scenario(expectation, Result.PASSED, detail, answer.ms)


def came_through(action: Action, answer: Answer) -> tuple[bool, str]:
    """Whether `answer` is what a passing `action` brings, and in words what it was."""
    match action:
        case Ping() | WhoHas() | Leased() | Served() | Sized() | Addressed() | Reaches():
            return answer.replied, answer.detail
        case Owner(_, mac):
            if answer.replied and set(answer.said) != {mac}:
                return False, f"it is claimed by {', '.join(answer.said)} and not by {mac} alone"
            return answer.replied, answer.detail
        case Resolves():
            return bool(answer.said), answer.detail
        case Talk(_, _, seen_as):
            seen = "".join(answer.said)
            if answer.replied and seen_as is not None and seen != str(seen_as):
                return False, f"it came as from {seen or 'nobody'} and not from {seen_as}"
            return answer.replied, answer.detail
        case Question(_, _, _, want):
            if want:
                return set(want) <= set(answer.said), answer.detail
            return answer.code == "NXDOMAIN", answer.detail
        case Page():
            return answer.replied and answer.code == "200", answer.detail
        case Leaving():
            return False, f"answered {answer.detail}"
        case Forgery():
            return False, answer.detail
        case _:
            assert_never(action)


def _said(scenarios: Iterable[Scenario]) -> str:
    """What became of them; of one that was skipped, what it was skipped for."""
    said = (each.detail if each.result is Result.SKIPPED else f"{each.name}: {each.detail}" for each in scenarios)
    return "; ".join(dict.fromkeys(said))


def _scenario(expectation: Expectation, result: Result, detail: str, ms: float) -> Scenario:
    return Scenario(expectation.name, expectation.frm, expectation.to, expectation.expect, result, detail, ms)
