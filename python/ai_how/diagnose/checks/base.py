"""The one shape of a check: a question, what must be known for it, and a function from facts to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ai_how.diagnose.facts import Facts, Machine, Network, Part
from ai_how.diagnose.finding import NO_FIX, Answer, Command, Finding, Fix

Look = Callable[[Facts], Iterable[Finding]]

#: The subject of what is not of one network or machine.
HOST = "host"


@dataclass(frozen=True, slots=True)
class Check:
    """`identifier` is the cause that it looks for (catalogue.py), `question` what it asks, answered by "yes" where all
    is well; `needs` are the parts without which it cannot tell."""

    identifier: str
    question: str
    needs: tuple[Part, ...]
    look: Look


#: All checks, in the order they were declared.
CHECKS: list[Check] = []


def check(identifier: str, question: str, *needs: Part) -> Callable[[Look], Look]:
    """Declare the decorated function to be the check for `identifier`."""

    def declare(look: Look) -> Look:
        CHECKS.append(Check(identifier, question, needs, look))
        return look

    return declare


def of_host(answer: Answer, summary: str, *evidence: str, fix: Fix = NO_FIX) -> Finding:
    """What is said of the host as a whole."""
    return Finding("", HOST, answer, summary, evidence, fix)


def of_network(network: Network, answer: Answer, summary: str, *evidence: str, fix: Fix = NO_FIX) -> Finding:
    """What is said of a network."""
    return Finding("", network.name, answer, summary, evidence, fix, network=network.name)


def of_networks(names: Sequence[str], answer: Answer, summary: str, evidence: Iterable[str], fix: Fix) -> Finding:
    """What is said of the one network of these names, or of the host where they are several."""
    alone = names[0] if len(names) == 1 else ""
    said = (*evidence, f"networks: {', '.join(names)}")
    return Finding("", alone or HOST, answer, summary, said, fix, network=alone)


def of_machine(
    machine: Machine, network: Network | None, answer: Answer, summary: str, *evidence: str, fix: Fix = NO_FIX
) -> Finding:
    """What is said of a machine, in a network of its."""
    name = "" if network is None else network.name
    return Finding("", machine.name, answer, summary, evidence, fix, network=name, machine=machine.name)


def repair(*commands: Command, undo: tuple[Command, ...] = (), ours: Network | None = None) -> Fix:
    """A repair that is certain. Of a network of ours the engine does it, and sees to all that belongs to it."""
    if ours is not None and ours.cluster:
        return Fix((("ai-how", "doctor", "--fix", "network", ours.name),), automatic=True, mend=ours.cluster)
    return Fix(commands, automatic=True, undo=undo)


def advice(text: str, *commands: Command) -> Fix:
    """What only people can decide."""
    return Fix(commands, advice=text)
