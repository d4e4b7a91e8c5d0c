"""From findings to the one cause: what explains the rest, what it does not explain, in the order of the chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_how.diagnose.catalogue import CATALOGUE
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.diagnose.question import Question

_WRONG = (Answer.FAIL, Answer.WARN)


@dataclass(frozen=True, slots=True)
class Cause:
    """A finding that no other explains, and the ones that it `explains`."""

    finding: Finding
    explains: tuple[Finding, ...] = ()

    @property
    def id(self) -> str:
        return self.finding.check

    @property
    def subject(self) -> str:
        return self.finding.subject

    @property
    def because(self) -> tuple[str, ...]:
        """What was seen, and what comes of it."""
        seen = (self.finding.summary, *self.finding.evidence)
        return (*seen, *(f"explains {each.check} of {each.subject}: {each.summary}" for each in self.explains))

    @property
    def fix(self) -> Fix:
        return self.finding.fix

    def to_json(self) -> dict[str, Any]:
        """As `ai-how doctor --json` shows it; each command is one line as a shell would take it."""
        import shlex

        return {
            "id": self.id,
            "subject": self.subject,
            "because": list(self.because),
            "fix": {
                "commands": [shlex.join(each) for each in self.fix.commands],
                "automatic": self.fix.automatic,
                "advice": self.fix.advice,
            },
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict. `causes` are independent of each other: the first is the one to begin with. `notes` say how the host
    was asked, where that could be better."""

    question: Question
    findings: tuple[Finding, ...]
    causes: tuple[Cause, ...]
    notes: tuple[str, ...] = ()

    @property
    def root(self) -> Cause | None:
        """The cause to begin with; None where nothing is wrong."""
        return self.causes[0] if self.causes else None

    @property
    def unseen(self) -> tuple[Finding, ...]:
        """What could not be looked at."""
        return tuple(each for each in self.findings if each.answer is Answer.UNKNOWN)

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 something is wrong, 3 could not look (at all of it)."""
        if self.causes:
            blind = {"libvirtd-down", "permission-denied"}
            return 3 if {each.id for each in self.causes} <= blind else 1
        return 3 if self.unseen else 0

    def to_json(self) -> dict[str, Any]:
        """As `ai-how doctor --json` shows it."""
        return {
            "root_cause": None if self.root is None else self.root.id,
            "causes": [each.to_json() for each in self.causes],
            "findings": [each.to_json() for each in self.findings],
        }


def conclude(question: Question, findings: Iterable[Finding]) -> Diagnosis:
    """The verdict on these findings."""
    found = tuple(findings)
    wrong = [each for each in found if each.answer in _WRONG]
    effects = {id(each): [other for other in wrong if explains(each, other)] for each in wrong}
    explained = {id(effect) for several in effects.values() for effect in several}
    roots = [each for each in wrong if id(each) not in explained]
    reached = {id(root): _reached(root, effects) for root in roots}
    # Two that explain each other would both be lost: the earlier in the chain is the root.
    for each in sorted(wrong, key=_rank):
        if id(each) not in reached and not any(id(each) in those for those in reached.values()):
            roots.append(each)
            reached[id(each)] = _reached(each, effects)
    causes = [
        Cause(root, tuple(each for each in wrong if id(each) not in reached and id(each) in reached[id(root)]))
        for root in roots
    ]
    return Diagnosis(question, found, tuple(sorted(causes, key=lambda cause: _rank(cause.finding))))


def explains(cause: Finding, effect: Finding) -> bool:
    """Whether `effect` is what `cause` makes appear: the catalogue says so, and it is where `cause` is.

    Advice explains no failure.
    """
    explained = CATALOGUE[cause.check].explains
    if cause == effect or (cause.answer is Answer.WARN and effect.answer is Answer.FAIL):
        return False
    if effect.kind and f"{effect.check}:{effect.kind}" in explained:
        return True
    if effect.check not in explained:
        return False
    if effect.check == "config-drift" and not _is_of(cause, effect):
        return False
    if cause.machine:
        return cause.machine == effect.machine or (not effect.machine and cause.network == effect.network != "")
    return not cause.network or cause.network == effect.network


def _is_of(cause: Finding, effect: Finding) -> bool:
    """Whether both are of the same machine, or of the same network, or of the host."""
    if effect.machine:
        return cause.machine == effect.machine
    return cause.network == effect.network and not cause.machine


def _reached(cause: Finding, effects: Mapping[int, Sequence[Finding]]) -> set[int]:
    """What `cause` explains, directly or by others, by id; `effects` are what each explains directly."""
    seen, todo = {id(cause)}, [cause]
    while todo:
        for each in effects[id(todo.pop())]:
            if id(each) not in seen:
                seen.add(id(each))
                todo.append(each)
    return seen - {id(cause)}


def _rank(finding: Finding) -> tuple[bool, int, int, str]:
    """Failures before advice, then the chain, then the table."""
    order = list(CATALOGUE)
    return (
        finding.answer is not Answer.FAIL,
        CATALOGUE[finding.check].layer,
        order.index(finding.check),
        finding.subject,
    )
