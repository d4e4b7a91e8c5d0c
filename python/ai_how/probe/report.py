"""What came of a test: the scenarios that were asked for, those that they rest on, and how many of them hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from ai_how.errors import UsageError
from ai_how.probe.expectations import Expectation
from ai_how.probe.judge import Result, Scenario
from ai_how.probe.path import PacketPath

#: What XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd]")


@dataclass(frozen=True, slots=True)
class Report:
    """Every scenario with its expectation, in the order of the promises. `seconds` is how long all of it took;
    `left_out` says what was not tried for its number; `paths` are those of packets of failed scenarios."""

    scenarios: Mapping[Expectation, Scenario]
    seconds: float
    left_out: str = ""
    paths: Mapping[Expectation, PacketPath] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether nothing failed, and something was tried."""
        return self.count(Result.FAILED) == 0 and self.count(Result.PASSED) > 0

    def count(self, result: Result) -> int:
        """How many scenarios ended so."""
        return sum(each.result is result for each in self.scenarios.values())

    def of(self, result: Result) -> list[tuple[Expectation, Scenario]]:
        """Those that ended so."""
        return [(each, scenario) for each, scenario in self.scenarios.items() if scenario.result is result]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        counts = {each.value: self.count(each) for each in Result}
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return {**counts, **left_out, "scenarios": [self._to_json(*each) for each in self.scenarios.items()]}

    def _to_json(self, expectation: Expectation, scenario: Scenario) -> dict[str, Any]:
        data = scenario.to_json()
        if (path := self.paths.get(expectation)) is not None:
            data["detail"] += f"; {path}"
        return data

    def to_junit(self, suite: str) -> str:
        """For CI systems: JUnit's XML, one test case for each scenario."""
        root = ElementTree.Element(
            "testsuite",
            name=suite,
            tests=str(len(self.scenarios)),
            failures=str(self.count(Result.FAILED)),
            errors="0",
            skipped=str(self.count(Result.SKIPPED)),
            time=f"{self.seconds:.3f}",
        )
        for each, scenario in self.scenarios.items():
            case = ElementTree.SubElement(
                root, "testcase", classname=f"{suite}.{_plain(each.frm)}", name=_plain(scenario.name)
            )
            case.set("time", f"{scenario.ms / 1000:.3f}")
            if scenario.result is Result.FAILED:
                said = f"expected: {each.expect} ({each.why})\n{self.paths.get(each, '')}"
                ElementTree.SubElement(case, "failure", message=_plain(scenario.detail)).text = _plain(said)
            elif scenario.result is Result.SKIPPED:
                ElementTree.SubElement(case, "skipped", message=_plain(scenario.detail))
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def read_filter(text: str) -> re.Pattern[str]:
    """Understands a regular expression. Raises UsageError."""
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{text!r} is no regular expression", why=str(error)) from error


def chosen(expectations: Iterable[Expectation], wanted: re.Pattern[str]) -> list[Expectation]:
    """Those whose name has something that `wanted` fits. Raises UsageError where it fits none."""
    everything = list(expectations)
    found = [each for each in everything if wanted.search(each.name)]
    if not found:
        example = everything[0].name if everything else ""
        raise UsageError(
            f"no scenario fits {wanted.pattern!r}",
            why=f"there are {len(everything)}" + (f"; one of them: {example}" if example else ""),
            remedy="Without --filter, ai-how test shows them all.",
        )
    return found


def worth_telling(
    tried: Iterable[Expectation], found: Mapping[Expectation, Scenario], *, everything: bool
) -> dict[Expectation, Scenario]:
    """Of what was found: what was asked for and, where `everything` was, all that denials rest on; of a choice only
    those of these that failed. What a promise merely needs of others is none."""
    asked = set(tried)
    rested_on: set[Expectation] = set()

    def add(each: Expectation) -> None:
        for control in each.controls:
            if control not in rested_on:
                rested_on.add(control)
                add(control)

    for each in asked:
        add(each)
    return {
        each: scenario
        for each, scenario in found.items()
        if each in asked or (each in rested_on and (everything or scenario.result is Result.FAILED))
    }


def _plain(text: str) -> str:
    return _NOT_XML.sub("?", text)
