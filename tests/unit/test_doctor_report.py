"""The verdict for people: one cause, several, none, and what could not be looked at."""

from __future__ import annotations

from typing import Any

from ai_how.diagnose.causes import conclude
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.diagnose.question import About, Question
from ai_how.diagnose.report import fix_lines, plain, text

START = Fix((("virsh", "net-start", "my net"),), automatic=True)
INACTIVE = Finding(
    "network-inactive", "my net", Answer.FAIL, "the network is not active", ("machines: node",), START, network="my net"
)
EFFECT = Finding("vm-no-lease", "node", Answer.FAIL, "it has no lease", network="my net", machine="node")
FULL = Finding("conntrack-full", "host", Answer.WARN, "it will be full soon", fix=Fix(advice="Look who has so many."))
WELL = Finding("bridge-down", "b", Answer.OK, "virbr1 is up", ("ports: none",), network="b")
UNSEEN = Finding("firewall-rules-missing", "host", Answer.UNKNOWN, "Are all rules there?", ("only root may see them",))


def _text(*findings: Finding, question: Question | None = None, **more: Any) -> str:
    return text(conclude(question or Question(), findings), **{"findings": False, **more})


def test_one_cause_is_told_with_evidence_what_it_explains_and_its_repair() -> None:
    assert _text(INACTIVE, EFFECT, WELL).splitlines() == [
        "one cause: a network that is needed is not active",
        "",
        "network-inactive of my net: the network is not active",
        "     machines: node",
        "   explains",
        "     vm-no-lease of node: it has no lease",
        "   repair (ai-how doctor --fix does it)",
        "     virsh net-start 'my net'",
        "   more: docs/doctor/network-inactive.md",
    ]


def test_several_causes_are_counted_and_numbered_the_first_first() -> None:
    lines = _text(FULL, INACTIVE).splitlines()
    assert lines[0] == "2 independent causes; begin with the first"
    assert "1. network-inactive of my net: the network is not active" in lines
    assert "2. conntrack-full of host: it will be full soon" in lines
    assert lines[lines.index("   repair") + 1] == "     Look who has so many."


def test_a_healthy_host_is_said_to_be_healthy_and_of_how_much() -> None:
    assert _text(WELL, WELL) == "healthy (2 things looked at are well)"


def test_what_was_asked_is_repeated() -> None:
    question = Question(About.NETWORK, "b")
    assert _text(WELL, question=question) == "network b: healthy (1 things looked at are well)"


def test_what_was_not_looked_at_is_not_healthy_and_told_by_its_reason() -> None:
    other = Finding("nat-missing", "host", Answer.UNKNOWN, "Does it?", ("only root may see them",))
    young = Finding("vm-no-lease", "node", Answer.UNKNOWN, "no lease yet", network="b", machine="node")
    lines = _text(WELL, UNSEEN, other, young).splitlines()
    assert lines[0] == "nothing wrong was found, and not everything could be looked at"
    at = lines.index("not looked at: firewall-rules-missing, nat-missing")
    assert lines[at + 1] == "     only root may see them"
    assert lines[at + 2 :] == ["not looked at: vm-no-lease", "     node: no lease yet"]


def test_what_was_not_looked_at_stands_beside_causes() -> None:
    lines = _text(INACTIVE, UNSEEN).splitlines()
    assert lines[0].startswith("one cause")
    assert "not looked at: firewall-rules-missing" in lines


def test_findings_are_listed_along_the_chain_where_they_are_wanted() -> None:
    lines = _text(EFFECT, WELL, INACTIVE, UNSEEN, findings=True).splitlines()
    wanted = [
        "fail     my net: the network is not active",
        "ok       b: virbr1 is up",
        "fail     node: it has no lease",
    ]
    assert [each for each in lines if each in wanted] == wanted
    assert "           ports: none" in lines
    assert not any("Are all rules there?" in each for each in lines)
    assert not any("virbr1 is up" in each for each in _text(WELL, INACTIVE).splitlines())


def test_a_repair_by_the_engine_has_its_command_and_one_without_words_no_lines() -> None:
    mend = Fix((("ai-how", "doctor", "--fix", "network", "n"),), automatic=True, mend="c")
    assert list(fix_lines(mend, plain)) == ["   repair", "     ai-how doctor --fix network n"]
    assert list(fix_lines(Fix(), plain)) == []


def test_colours_say_how_grave_it_is() -> None:
    def paint(words: str, colour: str) -> str:
        return f"<{colour}>{words}</>"

    assert "<red>network-inactive</>" in _text(INACTIVE, paint=paint)
    assert "<yellow>conntrack-full</>" in _text(FULL, paint=paint)
    assert "<green>healthy</>" in _text(WELL, paint=paint)
    assert "<cyan>not looked at</>" in _text(UNSEEN, paint=paint)


def test_what_moves_a_terminal_is_not_passed_on_from_guests_or_bundles() -> None:
    evil = "\x1b[2Jhealthy\x9b1m\r\x07"
    finding = Finding("vm-guest-misconfigured", evil, Answer.FAIL, evil, (evil,), Fix(((evil,),), advice=evil))
    said = _text(finding, Finding("bridge-down", evil, Answer.UNKNOWN, evil), findings=True)
    assert [each for each in said if not each.isprintable() and each != "\n"] == []
    assert "healthy" in said
