"""What iptables says, and what we do about it. The captures of Docker, ufw and RHEL are written from what these
programs are known to set up (Docker 27 and 28 as their sources have it), not taken from such a host."""

from __future__ import annotations

import pytest

from ai_how.host.iptables import (
    Chain,
    complete,
    marked,
    passage_chains,
    read_rules,
    renewal,
    variant,
)

QUIET = """\
-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
"""
DOCKER_27 = """\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
"""
DOCKER_28 = """\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-BRIDGE
-N DOCKER-CT
-N DOCKER-FORWARD
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
"""
#: Docker is gone, and what it made stayed; nothing leads there any more.
DOCKER_LEFT = """\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER-USER
-A DOCKER-USER -j RETURN
"""
UFW = """\
-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-N ufw-before-forward
-N ufw-before-input
-N ufw-user-input
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp -m tcp --dport 22 -m comment --comment "who -j DROP may come" -j ACCEPT
"""
#: The policies accept, and the last rule does not.
RHEL = """\
-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -m comment --comment "the rest" -j REJECT --reject-with icmp-host-prohibited
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
"""
OURS = """\
-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER-USER
-A INPUT -i br-a -m comment --comment ai-how -j ACCEPT
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -i br-a -m comment --comment ai-how -j ACCEPT
-A DOCKER-USER -o br-a -m comment --comment ai-how -j ACCEPT
-A DOCKER-USER -i br-half -m comment --comment ai-how -j ACCEPT
-A DOCKER-USER -i br-b -s 10.0.0.0/8 -m comment --comment ai-how -j ACCEPT
-A DOCKER-USER -i br-c -m comment --comment "not ai-how" -j ACCEPT
-A DOCKER-USER -i br-d -m comment --comment ai-how -j DROP
-A DOCKER-USER -i br-e -j ACCEPT
-A DOCKER-USER -j RETURN
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        (QUIET, ()),
        (DOCKER_27, ("DOCKER-USER",)),
        (DOCKER_28, ("DOCKER-USER",)),
        (DOCKER_27.replace("FORWARD DROP", "FORWARD ACCEPT"), ()),
        (DOCKER_LEFT, ("FORWARD",)),
        (UFW, ("FORWARD", "INPUT")),
        (RHEL, ("FORWARD", "INPUT")),
        (DOCKER_27.replace("INPUT ACCEPT", "INPUT DROP"), ("DOCKER-USER", "INPUT")),
    ],
    ids=[
        "no iptables",
        "quiet",
        "docker 27",
        "docker 28",
        "policy accept",
        "docker gone",
        "ufw",
        "rhel",
        "docker and ufw",
    ],
)
def test_bridges_are_to_be_accepted_where_what_nobody_accepts_is_dropped(text: str, expected: tuple[str, ...]) -> None:
    assert passage_chains(read_rules(text)) == expected


def test_a_drop_in_a_chain_that_is_not_built_in_is_not_everybody_s() -> None:
    assert read_rules(DOCKER_27)["DOCKER-ISOLATION-STAGE-2"] == Chain(
        "", (("-o", "docker0", "-j", "DROP"), ("-j", "RETURN"))
    )
    assert passage_chains(read_rules(QUIET + "-N X\n-A X -j DROP\n")) == ()


def test_only_rules_that_are_ours_word_by_word_are_taken_for_ours() -> None:
    assert marked(read_rules(OURS)) == {
        "INPUT": [("-i", "br-a")],
        "DOCKER-USER": [("-i", "br-a"), ("-o", "br-a"), ("-i", "br-half")],
    }


def test_a_bridge_is_accepted_when_both_of_its_rules_are_there_once() -> None:
    rules = marked(read_rules(OURS))
    assert complete("DOCKER-USER", rules["DOCKER-USER"]) == ("br-a",)
    assert complete("INPUT", rules["INPUT"]) == ("br-a",)
    assert complete("FORWARD", [("-i", "x"), ("-o", "x"), ("-i", "x")]) == ()


def test_renewal_mends_a_half_adds_the_new_removes_the_old_and_leaves_the_rest() -> None:
    rules = [("-i", "br-a"), ("-o", "br-a"), ("-i", "br-half"), ("-i", "br-old"), ("-o", "br-old")]
    assert renewal("FORWARD", rules, ["br-a", "br-half", "br-new"]) == (
        "*filter\n"
        "-D FORWARD -i br-half -m comment --comment ai-how -j ACCEPT\n"
        "-D FORWARD -i br-old -m comment --comment ai-how -j ACCEPT\n"
        "-D FORWARD -o br-old -m comment --comment ai-how -j ACCEPT\n"
        "-I FORWARD -i br-half -m comment --comment ai-how -j ACCEPT\n"
        "-I FORWARD -o br-half -m comment --comment ai-how -j ACCEPT\n"
        "-I FORWARD -i br-new -m comment --comment ai-how -j ACCEPT\n"
        "-I FORWARD -o br-new -m comment --comment ai-how -j ACCEPT\n"
        "COMMIT\n"
    )


def test_nothing_is_run_where_everything_is_there() -> None:
    assert renewal("FORWARD", [("-i", "br-a"), ("-o", "br-a")], ["br-a"]) == ""
    assert renewal("INPUT", [("-i", "br-a")], ["br-a"]) == ""
    assert renewal("FORWARD", [], []) == ""


def test_input_has_no_way_out() -> None:
    assert renewal("INPUT", [], ["br-a"]).splitlines()[1:-1] == [
        "-I INPUT -i br-a -m comment --comment ai-how -j ACCEPT"
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [("iptables v1.8.9 (nf_tables)\n", "nf_tables"), ("iptables v1.8.9 (legacy)\n", "legacy"), ("iptables v1.6.1", "")],
)
def test_both_kinds_of_iptables_say_which_they_are(said: str, expected: str) -> None:
    assert variant(said) == expected
