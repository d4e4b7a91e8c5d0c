"""The firewall as data: what is rendered, what is remembered, what nft's own words mean."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from ai_how.config.terms import Egress, Protocol
from ai_how.host.nftables import read_digest, read_owners
from ai_how.resources.firewall import NEXT, ClusterRules, Denial, FirewallTable, read_table, write_table
from ai_how.resources.firewall import TABLE as NAME
from ai_how.resources.ruleset import FAMILIES, MARK, render, render_removal
from ai_how.spec.policy import Exposure, Port

RULES = ClusterRules(
    cluster="hpc",
    bridge="br-hpc",
    subnet=IPv4Network("10.1.0.0/24"),
    gateway=IPv4Address("10.1.0.1"),
    macs=("52:54:00:00:00:01", "52:54:00:00:00:02"),
    masquerade=True,
    direct=(IPv4Network("172.16.0.0/12"),),
    peers=("br-lab",),
    allow_host_ports=(Port(Protocol.TCP, 2049),),
    block_networks=(IPv4Network("192.168.0.0/16"),),
    egress=Egress.DENY,
    allow_networks=(IPv4Network("198.51.100.0/24"),),
    expose=(Exposure(Port(Protocol.TCP, 2222), "hpc-controller", IPv4Address("10.1.0.2"), 22),),
    allow_from=(IPv4Network("172.16.0.0/12"),),
    behind=(IPv4Network("10.200.0.0/16"),),
)
PEER = ClusterRules("lab", "br-lab", IPv4Network("10.2.0.0/24"), IPv4Address("10.2.0.1"), peers=("br-hpc",))
TABLE = FirewallTable((RULES, PEER), ("eth0",), intact=True)


def transactions(text: str) -> list[list[dict[str, Any]]]:
    return [json.loads(line)["nftables"] for line in text.splitlines()]


def commands(text: str) -> list[dict[str, Any]]:
    return [each for one in transactions(text) for each in one]


def added(text: str, kind: str, table: str = NAME) -> list[dict[str, Any]]:
    """What of this kind is added to the tables of that name."""
    every = [each["add"][kind] for each in commands(text) if kind in each.get("add", {})]
    return [each for each in every if each["table"] == table]


def test_table_is_named_with_its_clusters_if_it_has_any() -> None:
    assert str(FirewallTable((RULES,), (), intact=True)) == f"nftables table ai_how with the rules of {RULES.cluster}"
    assert str(FirewallTable((), (), intact=True)) == "nftables table ai_how"


def elements(table: FirewallTable, name: str, family: str = "inet") -> list[Any]:
    sets = (*added(render(table), "set"), *added(render(table), "map"))
    found: list[Any] = next(each for each in sets if (each["name"], each["family"]) == (name, family)).get("elem", [])
    return found


def test_table_is_the_same_after_it_was_remembered() -> None:
    remembered = json.loads(json.dumps(write_table(TABLE)))
    assert read_table(remembered, intact=True) == TABLE
    assert read_table(remembered, intact=False) == replace(TABLE, intact=False)
    default = ClusterRules("", "", IPv4Network("0.0.0.0/32"), IPv4Address(0))
    for each in fields(ClusterRules):  # else the test would not notice a field that is forgotten
        assert getattr(RULES, each.name) != getattr(default, each.name), each.name


@pytest.mark.parametrize("data", [None, [], {}, 1, "text", {"clusters": [{}], "uplinks": []}, {"clusters": {"a": 1}}])
def test_what_is_no_table_is_refused_with_an_error_that_callers_expect(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        read_table(data, intact=True)


def test_tables_of_every_family_come_beside_the_old_ones_and_carry_the_mark() -> None:
    text = render(TABLE)
    said = [
        [(verb, what["table"]["name"]) for each in one for verb, what in each.items() if "table" in what]
        for one in transactions(text)
    ]
    replaced, removed = ("add", "delete", "add"), ("add", "delete")
    assert said == [
        [(verb, name) for _ in FAMILIES for verb in verbs]
        for verbs, name in ((replaced, NEXT), (replaced, NAME), (removed, NEXT))
    ]
    for name in (NEXT, NAME):
        assert [each["family"] for each in added(text, "chain", name) if each["name"] == MARK] == list(FAMILIES)
    assert json.dumps(added(text, "rule", NEXT)).replace(NEXT, NAME) == json.dumps(added(text, "rule"))


def test_no_chain_that_packets_enter_comes_together_with_a_set_that_is_looked_into() -> None:
    """The kernel fills some kinds of sets a moment after the rules of the same transaction are in force."""
    entered = 0
    for one in transactions(render(TABLE)):
        new = [each["add"] for each in one if "add" in each]
        chains = [each["chain"] for each in new if "hook" in each.get("chain", {})]
        enters = {(each["family"], each["table"], each["name"]) for each in chains}
        sets = {(each[kind]["family"], each[kind]["table"]) for each in new for kind in ("set", "map") if kind in each}
        assert sets & {(family, table) for family, table, _ in enters} == set()
        rules = [each["rule"] for each in new if "rule" in each]
        first = [each["expr"] for each in rules if (each["family"], each["table"], each["chain"]) in enters]
        assert '"set":' not in json.dumps(first)
        entered += len(enters)
    assert entered == 2 * len([each for each in added(render(TABLE), "chain") if "hook" in each])


def test_removal_also_works_where_a_table_is_gone() -> None:
    ours = [("inet", NAME), ("arp", NEXT)]
    said = [(verb, what["table"]) for each in commands(render_removal(ours)) for verb, what in each.items()]
    assert said == [(verb, {"family": family, "name": name}) for family, name in ours for verb in ("add", "delete")]


def test_every_rule_that_denies_has_a_counter_and_a_word_and_every_word_is_used() -> None:
    words = set()
    for each in added(render(TABLE), "rule"):
        verdicts = {name for statement in each["expr"] for name in statement}
        if verdicts & {"drop", "reject"}:
            assert "counter" in verdicts
            words.add(Denial(each["comment"]))
        else:
            assert "comment" not in each
    assert words == set(Denial)


def test_every_set_that_rules_ask_for_is_there_and_none_is_idle() -> None:
    text = render(TABLE)
    for family in FAMILIES:
        there = {each["name"] for kind in ("set", "map") for each in added(text, kind) if each["family"] == family}
        asked = json.dumps([each for each in added(text, "rule") if each["family"] == family])
        assert {name for name in there if f'"@{name}"' not in asked} == set()
        assert {word[1:] for word in asked.split('"') if word.startswith("@")} == there


def test_a_host_without_clusters_denies_nothing_and_has_a_table_that_can_be_loaded() -> None:
    text = render(FirewallTable((), (), intact=True))
    assert all("elem" not in each for kind in ("set", "map") for each in added(text, kind))
    assert MARK in text


def test_networks_that_overlap_are_given_once_for_sets_refuse_them() -> None:
    wide, narrow = IPv4Network("192.168.0.0/16"), IPv4Network("192.168.7.0/24")
    table = replace(TABLE, clusters=(replace(RULES, block_networks=(wide, narrow), allow_from=(narrow, wide)), PEER))
    expected = [{"concat": ["br-hpc", {"prefix": {"addr": "192.168.0.0", "len": 16}}]}]
    assert elements(table, "blocked") == expected
    assert elements(table, "allowed_from") == expected


def test_of_two_clusters_with_the_same_port_the_first_has_it() -> None:
    second = Exposure(Port(Protocol.TCP, 2222), "lab-controller", IPv4Address("10.2.0.2"), 23)
    table = replace(TABLE, clusters=(RULES, replace(PEER, expose=(second,))))
    assert elements(table, "nodes") == [[{"concat": ["tcp", 2222]}, "10.1.0.2"]]
    assert elements(table, "ports") == [[{"concat": ["tcp", 2222]}, 22]]
    assert elements(table, "exposed") == [{"concat": ["br-hpc", "10.1.0.2", "tcp", 22]}]


def test_peers_that_are_not_there_give_no_access_to_a_gateway() -> None:
    table = replace(TABLE, clusters=(replace(RULES, peers=("br-gone", "br-lab")), PEER))
    assert elements(table, "peers_gateways") == [
        {"concat": ["br-hpc", "10.2.0.1"]},
        {"concat": ["br-lab", "10.1.0.1"]},
    ]


def test_owner_of_a_table_is_told_by_its_mark() -> None:
    text = f"""table ip filter {{
	chain {MARK} {{
	}}
}}
table inet ai_how {{
	chain forward {{
		type filter hook forward priority filter - 10; policy accept;
	}}
	chain {MARK} {{
	}}
}}
table arp ai_how {{
}}
table inet ai_how_next {{
	chain {MARK} {{
	}}
}}
table bridge another {{
	chain {MARK} {{
	}}
}}
"""
    assert read_owners(text) == {("inet", "ai_how"): True, ("arp", "ai_how"): False, ("inet", "ai_how_next"): True}
    assert read_owners("") == {}


def test_digest_ignores_counters_and_handles_and_nothing_else() -> None:
    def listing(*, version: str = "1.0.6", handle: int = 1, packets: int = 0, verdict: str = "drop") -> str:
        rule = {
            "chain": "c",
            "handle": handle,
            "expr": [{"counter": {"packets": packets, "bytes": 0}}, {verdict: None}],
        }
        return json.dumps({"nftables": [{"metainfo": {"version": version}}, {"rule": rule}]})

    first = read_digest(listing())
    assert {read_digest(each) for each in (listing(handle=7), listing(packets=9), listing(version="1.1"))} == {first}
    without = listing().replace('{"counter": {"packets": 0, "bytes": 0}}, ', "")
    assert first not in {read_digest(each) for each in (listing(verdict="accept"), without, "")}
