"""The checks, one small function for each cause that the doctor knows; a file for each stretch of the chain.

    base.py       the shape: question, needs, answer
    host.py       libvirt itself, programs, settings of the kernel
    networks.py   networks, their bridges and addresses
    dnsmasq.py    DHCP and DNS: who serves, whom they ask, who holds which address
    firewall.py   rules, everybody's
    uplink.py     the way out, and what is asked there
    machines.py   machines, their links, and what they are like inside
    clusters.py   what only clusters of ai-how have

Pure: facts → findings. A finding without a `check` gets the identifier of the check that made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ai_how.diagnose.checks import clusters, dnsmasq, firewall, host, machines, networks, uplink  # noqa: F401
from ai_how.diagnose.checks.base import CHECKS, Check, advice
from ai_how.diagnose.facts import Facts
from ai_how.diagnose.finding import Answer, Finding
from ai_how.diagnose.question import About, Question
from ai_how.diagnose.read import NOT_UNDERSTOOD

#: What answers the two questions about a kind of thing; the others are answered by all checks.
_FAMILIES = {
    About.NETWORKS: (host, networks),
    About.DNSMASQ: (host, dnsmasq),
}


def run(facts: Facts, question: Question) -> tuple[Finding, ...]:
    """What the checks find that answer `question`, as far as it concerns what is asked about."""
    found = [finding for each in chosen(question) for finding in _ask(each, facts)]
    found += _unknown_names(facts, question)
    return tuple(each for each in found if concerns(each, facts, question))


def chosen(question: Question) -> list[Check]:
    """The checks that answer `question`."""
    families = _FAMILIES.get(question.about)
    if families is None:
        return list(CHECKS)
    names = {each.__name__ for each in families}
    return [each for each in CHECKS if each.look.__module__ in names]


def _ask(check: Check, facts: Facts) -> Iterator[Finding]:
    blind = next((part for part in check.needs if part in facts.missing), None)
    if blind is not None:
        yield Finding(check.identifier, "host", Answer.UNKNOWN, check.question, (facts.missing[blind],))
        return
    try:
        found = list(check.look(facts))
    except NOT_UNDERSTOOD as error:  # rules, for one, are only understood when packets are followed through them
        why = f"what the host said is not understood: {error!r}"
        yield Finding(check.identifier, "host", Answer.UNKNOWN, check.question, (why,))
        return
    for finding in found:
        yield finding if finding.check else replace(finding, check=check.identifier)


def _unknown_names(facts: Facts, question: Question) -> Iterator[Finding]:
    """What was asked about by a name that nothing has."""
    if facts.libvirt.trouble or not question.name:
        return
    network = question.about is About.NETWORK
    word = "network" if network else "machine"
    names = [each.name for each in facts.networks] if network else [each.name for each in facts.machines]
    if question.name not in names:
        yield Finding(
            "network-undefined" if network else "vm-undefined",
            question.name,
            Answer.FAIL,
            f"there is no {word} of this name",
            (f"the {word}s here: {', '.join(names) or 'none'}",),
            advice(
                f"Ask for one of these, or make it: ai-how up with the configuration of a cluster that has this {word}."
            ),
            network=question.name if network else "",
            machine="" if network else question.name,
        )


def concerns(finding: Finding, facts: Facts, question: Question) -> bool:
    """Whether a finding is about what was asked, or about the host, on which all of it stands."""
    if not finding.network and not finding.machine:
        return True
    match question.about:
        case About.NETWORK:
            if finding.network == question.name:
                return True
            return not finding.network and finding.machine in {each.name for each in facts.users_of(question.name)}
        case About.MACHINE:
            if finding.machine:
                return finding.machine == question.name
            machine = next((each for each in facts.machines if each.name == question.name), None)
            return machine is not None and finding.network in {
                nic.source for nic in machine.interfaces if nic.kind == "network"
            }
        case _:
            return True
