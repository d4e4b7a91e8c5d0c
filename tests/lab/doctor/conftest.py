"""What became of every fault, as a table at the end of the run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Outcome:
    """How the doctor answered to one fault. `false` are the causes that it named and that were none."""

    fault: str
    first: bool
    named: bool
    false: list[tuple[str, str]]


_OUTCOMES: pytest.StashKey[list[Outcome]] = pytest.StashKey()


def outcomes(config: pytest.Config) -> list[Outcome]:
    """Of this run so far, to be added to."""
    return config.stash.setdefault(_OUTCOMES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table: what was made, whether it was named first, whether at all, and false alarms."""
    found = outcomes(config)
    if not found:
        return
    terminalreporter.section("the doctor")
    width = max(len(each.fault) for each in found)
    for each in found:
        false = ", ".join(" ".join(one) for one in each.false)
        said = "first" if each.first else "named" if each.named else "not named"
        terminalreporter.write_line(f"{each.fault:<{width}}  {said:<9}  {false}".rstrip())
    terminalreporter.write_line(
        f"{len(found)} faults: {sum(each.first for each in found)} named first, "
        f"{sum(each.named for each in found)} named at all, {sum(len(each.false) for each in found)} false alarms"
    )
