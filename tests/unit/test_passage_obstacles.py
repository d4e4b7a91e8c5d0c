"""Other firewalls: which of them would stop nodes, told from what nft and iptables say.

captures/firewalld-1.3.json is of firewalld 1.3.3 in a lab, with br-a in zone `libvirt` and br-b in `libvirt-routed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ai_how.host.foreign_firewalls import Firewalls, obstacles
from ai_how.spec.policy import Port, Protocol

FIREWALLD = (Path(__file__).parents[1] / "captures" / "firewalld-1.3.json").read_text()
ESTABLISHED = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
ACCEPT: dict[str, Any] = {"accept": None}


def _on(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def _port(number: int | dict[str, Any], protocol: str = "udp") -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": number}}


def _ruleset(
    rules: Iterable[list[dict[str, Any]]],
    *,
    hook: str = "forward",
    policy: str = "drop",
    table: tuple[str, str] = ("inet", "mine"),
    others: Iterable[dict[str, Any]] = (),
) -> str:
    """A table with one base chain `c`, as nft 1.0.6 writes it."""
    place = {"family": table[0], "table": table[1]}
    base = {"chain": {**place, "name": "c", "type": "filter", "hook": hook, "prio": 0, "policy": policy}}
    entries = [base, *({"rule": {**place, "chain": "c", "expr": rule}} for rule in rules)]
    for each in others:
        ((kind, content),) = each.items()
        entries.append({kind: {**place, **content}})
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *entries]})


def _stopped(text: str, *bridges: str, **more: Any) -> list[str]:
    found = obstacles(Firewalls(text), bridges or ("br-a",), uplinks=("eth0",), **more)
    return [each.what for each in found]


STOPS = ["the nftables chain inet mine c"]


def test_a_host_without_other_firewalls_has_no_obstacles() -> None:
    assert _stopped("") == []
    assert _stopped('{"nftables": []}') == []
    assert _stopped(_ruleset([], policy="accept")) == []


def test_a_chain_that_drops_by_policy_is_named_with_the_commands_that_open_it() -> None:
    (found,) = obstacles(Firewalls(_ruleset([])), ["br-a", "br-b"], uplinks=["eth0"])
    assert found.what == "the nftables chain inet mine c"
    assert "br-a, br-b" in found.why
    assert found.remedy.splitlines() == [
        'nft \'insert rule inet mine c iifname { "br-a", "br-b" } accept\'',
        'nft \'insert rule inet mine c oifname { "br-a", "br-b" } accept\'',
    ]


def test_a_chain_for_what_the_host_is_asked_needs_one_command() -> None:
    (found,) = obstacles(Firewalls(_ruleset([], hook="input")), ["br-a"])
    assert found.remedy == "nft 'insert rule inet mine c iifname \"br-a\" accept'"
    assert "DHCP" in found.why


@pytest.mark.parametrize("last", [{"drop": None}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}])
def test_a_last_rule_that_drops_everything_is_an_obstacle_like_a_policy(last: dict[str, Any]) -> None:
    assert _stopped(_ruleset([[ESTABLISHED, ACCEPT], [{"counter": {}}, last]], policy="accept")) == STOPS


@pytest.mark.parametrize(
    "rule",
    [
        [_on("iifname", "br-a"), ACCEPT],
        [_on("iif", "br-a"), {"counter": {"packets": 0, "bytes": 0}}, ACCEPT],
        [_on("iifname", "br-*"), ACCEPT],
        [_on("iifname", {"set": ["lo", "br-a"]}), ACCEPT],
        [_on("iifname", "@inside"), ACCEPT],
        [_on("iifname", "eth0", "!="), ACCEPT],
        [_on("iifname", "br-a"), _on("oifname", "eth0"), ACCEPT],
        [_on("iifname", "br-a"), {"jump": {"target": "sub"}}],
        [{"jump": {"target": "sub"}}],
        [{"goto": {"target": "sub"}}],
        [{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["br-a", ACCEPT], ["x", {"drop": None}]]}}}],
        [{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@verdicts"}}],
        [
            {
                "match": {
                    "op": "==",
                    "left": {"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]},
                    "right": {"set": [{"concat": ["br-a", "eth0"]}]},
                }
            },
            ACCEPT,
        ],
        [ACCEPT],
    ],
)
def test_a_rule_that_lets_our_bridge_out_is_understood(rule: list[dict[str, Any]]) -> None:
    others: list[dict[str, Any]] = [
        {"set": {"name": "inside", "elem": ["br-z", "br-a"]}},
        {"map": {"name": "verdicts", "elem": [["br-a", {"jump": {"target": "sub"}}]]}},
        {"chain": {"name": "sub"}},
        {"rule": {"chain": "sub", "expr": [ACCEPT]}},
    ]
    assert _stopped(_ruleset([[ESTABLISHED, ACCEPT], rule], others=others)) == []
    assert _stopped(_ruleset([[ESTABLISHED, ACCEPT]], others=others)) == STOPS


@pytest.mark.parametrize(
    "rule",
    [
        [_on("iifname", "br-b"), ACCEPT],
        [_on("iifname", "br-a", "!="), ACCEPT],
        [_on("iifname", "@nobody"), ACCEPT],
        [_on("iifname", "br-a"), _on("oifname", "wlan0"), ACCEPT],
        [_on("iifname", "br-a"), _port(22, "tcp"), ACCEPT],
        [_on("iifname", "br-a"), {"limit": {"rate": 1, "per": "second"}}, ACCEPT],
        [_on("iifname", "br-a"), {"xt": {"type": "match", "name": "physdev"}}, ACCEPT],
        [{"jump": {"target": "nowhere"}}],
        [{"return": None}],
    ],
)
def test_a_rule_that_lets_only_some_packets_or_others_out_is_not_enough(rule: list[dict[str, Any]]) -> None:
    assert _stopped(_ruleset([[ESTABLISHED, ACCEPT], rule])) == STOPS


def test_what_is_not_understood_is_passed_over_on_both_sides() -> None:
    """Whoever is warned in vain loses less than who is not: but a chain that accepts by all that is known accepts."""
    marked = _on("mark", 7)
    for last, stops in ((ACCEPT, []), ({"drop": None}, STOPS)):
        others: list[dict[str, Any]] = [
            {"chain": {"name": "sub"}},
            {"rule": {"chain": "sub", "expr": [marked, {"return": None}]}},
            {"rule": {"chain": "sub", "expr": [marked, ACCEPT]}},
            {"rule": {"chain": "sub", "expr": [last]}},
        ]
        assert _stopped(_ruleset([[ESTABLISHED, ACCEPT], [{"jump": {"target": "sub"}}]], others=others)) == stops


def test_what_comes_back_must_be_accepted_too() -> None:
    out = [_on("iifname", "br-a"), ACCEPT]
    assert _stopped(_ruleset([out])) == STOPS
    assert _stopped(_ruleset([out, [_on("oifname", "br-a"), ACCEPT]])) == []
    iptables: list[dict[str, Any]] = [{"xt": {"type": "match", "name": "conntrack"}}, {"counter": {}}, ACCEPT]
    assert _stopped(_ruleset([out, iptables])) == []


def test_the_gateway_must_be_reached_for_dhcp_and_for_dns() -> None:
    dns, dhcp = [_port(53), ACCEPT], [_port({"range": [67, 68]}), ACCEPT]
    assert _stopped(_ruleset([dns], hook="input")) == STOPS
    assert _stopped(_ruleset([dhcp], hook="input")) == STOPS
    assert _stopped(_ruleset([dns, dhcp], hook="input")) == []
    assert _stopped(_ruleset([[_port(53, "tcp"), ACCEPT], dhcp], hook="input")) == STOPS
    for_others = {"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "daddr"}}, "right": "::1"}}
    assert _stopped(_ruleset([dns, dhcp, [for_others, {"drop": None}]], hook="input")) == []


def test_chains_that_are_no_obstacle_are_not_named() -> None:
    assert _stopped(_ruleset([], table=("inet", "ai_how"))) == []
    assert _stopped(_ruleset([], table=("ip", "libvirt_network"))) == []
    assert _stopped(_ruleset([], table=("ip6", "mine"))) == []
    assert _stopped(_ruleset([], hook="output")) == []


def test_where_a_passage_of_ours_is_nothing_is_stopped() -> None:
    text = _ruleset([], table=("ip", "filter")).replace('"c"', '"FORWARD"')
    assert _stopped(text) == ["the nftables chain ip filter FORWARD"]
    assert _stopped(text, passages=["FORWARD"]) == []
    assert _stopped(text, passages=["DOCKER-USER"]) == []
    assert _stopped(text, passages=["INPUT"]) == ["the nftables chain ip filter FORWARD"]


def test_what_libvirt_has_in_iptables_is_not_taken_for_an_obstacle() -> None:
    """Its chains accept by address, which is not followed, and reject the rest of the bridge."""
    others: list[dict[str, Any]] = [
        {"chain": {"name": "LIBVIRT_FWO"}},
        {
            "rule": {
                "chain": "LIBVIRT_FWO",
                "expr": [_on("iifname", "br-a"), {"xt": {"type": "target", "name": "REJECT"}}],
            }
        },
    ]
    rules = [[{"jump": {"target": "LIBVIRT_FWO"}}]]
    assert _stopped(_ruleset(rules, table=("ip", "filter"), policy="accept", others=others)) == []
    strangers = json.loads(json.dumps(others).replace("LIBVIRT", "MINE"))
    rules = [[{"jump": {"target": "MINE_FWO"}}]]
    assert _stopped(_ruleset(rules, table=("ip", "filter"), policy="accept", others=strangers)) != []


def test_firewalld_lets_bridges_pass_that_libvirt_told_it_of() -> None:
    links = frozenset({"br-a", "br-b", "br-stray"})
    assert obstacles(Firewalls(FIREWALLD, links=links), ["br-a", "br-b"], uplinks=["eth0"]) == ()
    (found,) = obstacles(Firewalls(FIREWALLD, links=links), ["br-a", "br-b", "br-stray"], uplinks=["eth0"])
    assert found.what == "firewalld"
    assert found.why.startswith("br-stray is in none of libvirt's zones")
    assert found.remedy.startswith("firewall-cmd --zone=libvirt --change-interface=br-stray")


def test_firewalld_is_not_asked_about_bridges_that_libvirt_has_not_made_yet() -> None:
    assert obstacles(Firewalls(FIREWALLD, links=frozenset({"lo"})), ["br-new"]) == ()


def test_ports_that_firewalld_s_zone_does_not_open_are_named_with_the_commands_that_open_them() -> None:
    seen = Firewalls(FIREWALLD, links=frozenset({"br-a", "br-b"}))
    ssh, ntp, web = Port(Protocol.TCP, 22), Port(Protocol.UDP, 123), Port(Protocol.TCP, 8080)
    assert obstacles(seen, ["br-a", "br-b"], ports={"br-a": [ssh], "br-b": [ssh]}) == ()
    nat, routed = obstacles(seen, ["br-a", "br-b"], ports={"br-a": [ssh, ntp, web], "br-b": [web]})
    assert (nat.what, routed.what) == ("firewalld", "firewalld")
    assert "123/udp, 8080/tcp" in nat.why
    assert nat.remedy.splitlines()[:2] == [
        "firewall-cmd --zone=libvirt --add-port=123/udp",
        "firewall-cmd --permanent --zone=libvirt --add-port=123/udp",
    ]
    assert routed.remedy.splitlines()[0] == "firewall-cmd --policy=libvirt-to-host --add-port=8080/tcp"


def test_ports_of_the_host_that_nodes_may_use_must_be_accepted_like_dhcp() -> None:
    accepted = [[_port(53), ACCEPT], [_port(67), ACCEPT]]
    wish = {"br-a": [Port(Protocol.TCP, 8080)]}
    assert _stopped(_ruleset(accepted, hook="input")) == []
    assert _stopped(_ruleset(accepted, hook="input"), ports=wish) == STOPS
    assert _stopped(_ruleset([*accepted, [_port(8080, "tcp"), ACCEPT]], hook="input"), ports=wish) == []


LEGACY = """\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-A FORWARD -i br-a -j ACCEPT
-A FORWARD -o br-a -m comment --comment ai-how -j ACCEPT
-A FORWARD -i br-b -j ACCEPT
"""


def test_the_other_iptables_is_an_obstacle_that_our_passage_does_not_open() -> None:
    (found,) = obstacles(Firewalls("", legacy=LEGACY), ["br-a", "br-b", "br-c"], passages=["FORWARD"])
    assert found.what == "the chain FORWARD of iptables-legacy"
    assert found.remedy.splitlines() == [
        "iptables-legacy -I FORWARD -o br-b -j ACCEPT",
        "iptables-legacy -I FORWARD -i br-c -j ACCEPT",
        "iptables-legacy -I FORWARD -o br-c -j ACCEPT",
    ]
    assert obstacles(Firewalls("", legacy=LEGACY), ["br-a"]) == ()


def test_a_table_that_could_not_be_read_is_said_and_not_taken_for_harmless() -> None:
    (found,) = obstacles(Firewalls(_ruleset([], policy="accept"), unread=(("inet", "others"),)), ["br-a"])
    assert found.what == "the nftables table inet others"
    assert found.remedy == "nft list table inet others"
