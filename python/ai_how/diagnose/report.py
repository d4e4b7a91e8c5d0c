"""Which checks answer which question, and findings as text and exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from ai_how.diagnose.dnsmasq import check_server_named, check_servers
from ai_how.diagnose.facts import Facts
from ai_how.diagnose.finding import Answer, Finding
from ai_how.diagnose.machines import check_machine_named, check_machines
from ai_how.diagnose.networks import check_network_named, check_networks
from ai_how.errors import UsageError

QUESTIONS = "[networks | dnsmasq | network NAME | vm NAME]"


Check = Callable[[Facts], Iterator[Finding]]


def checks_for(question: Sequence[str]) -> tuple[Check, ...]:
    """The checks that answer a question (see QUESTIONS; an empty one asks for everything). Raises UsageError."""
    match tuple(question):
        case ():
            return (check_networks, check_servers, check_machines)
        case ("networks",):
            return (check_networks,)
        case ("dnsmasq",):
            return (check_servers,)
        case ("network", name):
            return (partial(check_network_named, name=name), partial(check_server_named, name=name))
        case ("vm", name):
            return (partial(check_machine_named, name=name),)
        case _:
            raise UsageError(f"cannot answer {' '.join(question)!r}", remedy=f"ask {QUESTIONS}")


def findings(facts: Facts, checks: Iterable[Check]) -> list[Finding]:
    """What the checks find, after what could not be looked at."""
    found = []
    if problem := facts.problem:
        found.append(
            Finding("libvirt", "libvirt", Answer.UNKNOWN, f"{problem.what}: {problem.why}", hint=problem.remedy)
        )
    return found + [finding for check in checks for finding in check(facts)]


def exit_code(found: Iterable[Finding]) -> int:
    """0 healthy, 1 something is wrong, 3 could not look."""
    answers = {finding.answer for finding in found}
    if Answer.FAIL in answers:
        return 1
    return 3 if Answer.UNKNOWN in answers else 0


def text(found: Iterable[Finding], *, evidence: bool) -> str:
    """The findings for people; `evidence` of healthy things is shown on demand, that of others always."""
    lines = []
    for finding in found:
        fine = finding.answer is Answer.OK
        lines.append(
            f"{finding.answer:<7}  {finding.subject}: {finding.summary}" + ("" if fine else f" [{finding.check}]")
        )
        if evidence or not fine:
            lines += [f"{'':9}  {line}" for line in finding.evidence]
        lines += [f"{'':9}  → {line}" for line in finding.hint.splitlines()]
    return "\n".join(lines)
