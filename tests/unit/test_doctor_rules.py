"""What a host's firewall rules do to networks, told from what nft and iptables say.

Captured in a lab with four networks of libvirt's and two clusters in shared_dns: nft-libvirt-9-iptables.json as libvirt
9.0 writes its rules with iptables, nft-libvirt-11-nftables.json as 11.3 does with nftables (its table alone), and
nft-ai-how-loaded.json what the clusters' table was right after it was loaded into an empty namespace. Breakages are
made as the commands in their names make them; with packets they were tried in labs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from ai_how.diagnose.facts import Firewall
from ai_how.diagnose.rules import (
    COMMENT,
    Change,
    Lack,
    Stopped,
    Way,
    asking_stopped,
    forwarding_stopped,
    libvirt_rules_missing,
    libvirts_chains_are_whole,
    not_masqueraded,
    ours_changed,
    taken_back,
    within_stopped,
)
from ai_how.host.packet_walk import read_iptables, read_tables, words
from ai_how.resources.firewall import NEXT, TABLE, Denial

CAPTURES = Path(__file__).parents[1] / "captures"
Entries = list[dict[str, Any]]


def _captured(name: str) -> Entries:
    found: Entries = json.loads((CAPTURES / name).read_text())["nftables"]
    return found


IPTABLES = _captured("nft-libvirt-9-iptables.json")
OURS = [each for each in IPTABLES if next(iter(each.values()))["family"] != "ip"]
LOADED = json.dumps({"nftables": _captured("nft-ai-how-loaded.json")})
NFTABLES = [*OURS, *_captured("nft-libvirt-11-nftables.json")]
BACKENDS = {"iptables": IPTABLES, "nftables": NFTABLES}


def _way(network: str, bridge: str, subnet: str, forward: str, cluster: str = "") -> Way:
    addresses = IPv4Network(subnet)
    return Way(network, bridge, addresses, addresses[1], forward, cluster, guarded=bool(cluster))


NAT = _way("default", "virbr0", "192.168.122.0/24", "nat")
ROUTE = _way("road", "virbr1", "192.168.123.0/24", "route")
OPEN = _way("wide", "virbr2", "192.168.124.0/24", "open")
NONE = _way("closed", "virbr3", "192.168.125.0/24", "none")
OUR = _way("training-network", "br-training", "10.10.1.0/24", "route", "training")
PEER = _way("inference-network", "br-inference", "10.10.2.0/24", "route", "inference")
WAYS = (NAT, ROUTE, OPEN, NONE, OUR, PEER)


def _firewall(entries: Entries, **more: Any) -> Firewall:
    return Firewall(json.dumps({"nftables": entries}), loaded=LOADED, **more)


def _edited(entries: Entries, change: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> Entries:
    """What `change` makes of each entry; it is gone where that is None."""
    found = []
    for entry in entries:
        ((kind, data),) = entry.items()
        changed = change(kind, data)
        if changed is not None:
            found.append({kind: changed})
    return found


def _dropped(entries: Entries, which: Callable[[str, dict[str, Any]], bool]) -> Entries:
    return _edited(entries, lambda kind, data: None if which(kind, data) else data)


def _without(entries: Entries, chain: str, *parts: str, family: str = "") -> Entries:
    """Without the rules of a chain that have all of these words."""
    left = _dropped(
        entries,
        lambda kind, data: (
            kind == "rule"
            and data["chain"] == chain
            and family in ("", data["family"])
            and all(part in f"{words(data['expr'])} {data.get('comment', '')}" for part in parts)
        ),
    )
    assert len(left) < len(entries), "the breakage breaks nothing"
    return left


def _policy(entries: Entries, chain: str = "FORWARD", table: str = "filter") -> Entries:
    """iptables -P FORWARD DROP."""
    wanted = {"family": "ip", "table": table, "name": chain}
    changed = _edited(
        entries,
        lambda kind, data: {**data, "policy": "drop"} if kind == "chain" and wanted.items() <= data.items() else data,
    )
    assert changed != entries
    return changed


def _chain(name: str, policy: str = "", table: tuple[str, str] = ("ip", "filter"), **more: Any) -> dict[str, Any]:
    base = {"type": "filter", "hook": "forward", "prio": 0, "policy": policy} if policy else {}
    return {"chain": {"family": table[0], "table": table[1], "name": name, **base, **more}}


def _rule(chain: str, *expr: dict[str, Any], table: tuple[str, str] = ("ip", "filter"), **more: Any) -> dict[str, Any]:
    return {"rule": {"family": table[0], "table": table[1], "chain": chain, "expr": list(expr), **more}}


def _on(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def _address(way: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": "ip", "field": way}}, "right": right}}


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
ESTABLISHED = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
SITE = ("inet", "site")


def _site(*rules: Iterable[dict[str, Any]], policy: str = "drop") -> Entries:
    """A table of somebody's own."""
    return [_chain("forward", policy, SITE), *(_rule("forward", *each, table=SITE) for each in rules)]


def _docker() -> Entries:
    """Docker's chains, as iptables-nft has them beside libvirt's backend for nftables."""
    jump = {"jump": {"target": "DOCKER-USER"}}
    return [
        _chain("FORWARD", "drop"),
        _chain("DOCKER-USER"),
        _chain("DOCKER"),
        _rule("FORWARD", {"counter": {"packets": 0, "bytes": 0}}, jump),
        _rule("FORWARD", _on("iifname", "docker0"), _on("oifname", "docker0", "!="), ACCEPT),
        _rule("FORWARD", _on("oifname", "docker0"), {"xt": {"type": "match", "name": "conntrack"}}, ACCEPT),
        _rule("DOCKER-USER", {"return": None}),
    ]


def _found(found: Iterable[Stopped]) -> set[tuple[str, str]]:
    return {(each.network, each.way) for each in found}


# What is stopped.


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_wrong_with_healthy_rules(backend: str) -> None:
    firewall = _firewall(BACKENDS[backend])
    assert forwarding_stopped(firewall, WAYS, "uplink") == []
    assert within_stopped(firewall, WAYS, True) == []
    assert libvirt_rules_missing(firewall, WAYS) == []
    assert not_masqueraded(firewall, WAYS, "uplink") == []
    assert ours_changed(firewall).intact
    assert ours_changed(firewall).lines == ()


def test_a_dropping_forward_stops_only_what_libvirt_does_not_accept_before() -> None:
    firewall = _firewall(_policy(IPTABLES))
    found = forwarding_stopped(firewall, WAYS, "uplink")
    assert _found(found) == {("wide", "out"), ("wide", "back")}
    out = next(each for each in found if each.way == "out")
    assert (out.owner, out.where, out.whole) == ("iptables", "ip filter FORWARD", True)
    assert out.why == "the policy of ip filter FORWARD is drop"
    assert out.open == (("iptables", "-I", "FORWARD", "-i", "virbr2", "-o", "uplink", "-j", "ACCEPT"),)
    assert out.undo == (("iptables", "-D", "FORWARD", "-i", "virbr2", "-o", "uplink", "-j", "ACCEPT"),)
    assert _found(within_stopped(firewall, WAYS, True)) == {("wide", "within")}
    assert within_stopped(firewall, WAYS, False) == []


def test_without_an_uplink_nothing_is_stopped_on_its_way_there() -> None:
    assert forwarding_stopped(_firewall(_policy(IPTABLES)), WAYS, "") == []


def test_docker_stops_what_libvirts_table_accepts_and_is_opened_where_docker_wants_it() -> None:
    firewall = _firewall([*NFTABLES, *_docker()])
    found = forwarding_stopped(firewall, (NAT, NONE, OUR), "uplink")
    assert _found(found) == {(name, way) for name in ("default", "training-network") for way in ("out", "back")}
    assert {each.owner for each in found} == {"Docker"}
    opened = {(each.network, each.way): each.open[0] for each in found}
    start = ("iptables", "-I", "DOCKER-USER")
    assert opened["default", "out"] == (*start, "-i", "virbr0", "-o", "uplink", "-j", "ACCEPT")
    # libvirt keeps the network apart after it: only answers pass.
    answers = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
    assert opened["default", "back"] == (*start, "-i", "uplink", "-o", "virbr0", *answers)
    # A cluster of ours has the rules that a passage is made of.
    mark = ("-m", "comment", "--comment", "ai-how", "-j", "ACCEPT")
    assert opened["training-network", "out"] == (*start, "-i", "br-training", *mark)
    assert opened["training-network", "back"] == (*start, "-o", "br-training", *mark)
    within = within_stopped(firewall, (NAT, NONE), True)
    assert [each.open[0] for each in within] == [
        (*start, "-i", bridge, "-o", bridge, "-j", "ACCEPT") for bridge in ("virbr0", "virbr3")
    ]


def test_a_rule_before_dockers_chain_is_opened_before_it() -> None:
    entries = [_chain("FORWARD", "accept"), _chain("DOCKER-USER"), _rule("FORWARD", _on("iifname", "virbr0"), DROP)]
    (found,) = forwarding_stopped(_firewall([*entries, *_docker()[3:4]]), (NAT,), "uplink")
    assert found.open[0][:3] == ("iptables", "-I", "FORWARD")
    assert found.owner == "iptables"
    assert found.why == "a rule of ip filter FORWARD drops it: iifname virbr0 drop"


def test_ufw_is_named_by_its_chains_and_its_answers_pass() -> None:
    conntrack = {"xt": {"type": "match", "name": "conntrack"}}
    ufw = [
        _chain("FORWARD", "drop"),
        _chain("ufw-before-forward"),
        _rule("FORWARD", {"jump": {"target": "ufw-before-forward"}}),
        _rule("ufw-before-forward", conntrack, ACCEPT),
        _rule("ufw-before-forward", conntrack, DROP),  # INVALID
    ]
    (found,) = forwarding_stopped(_firewall([*NFTABLES, *ufw]), (NAT,), "uplink")
    assert (found.way, found.owner) == ("out", "ufw")
    rejecting = [*ufw, _rule("ufw-before-forward", {"xt": {"type": "target", "name": "REJECT"}})]
    (found,) = forwarding_stopped(_firewall([*NFTABLES, *rejecting]), (NAT,), "uplink")
    assert found.why == "a rule of ip filter FORWARD (in ufw-before-forward) drops it: REJECT"


def test_a_table_of_ones_own_is_named_and_opened_by_nft() -> None:
    firewall = _firewall([*IPTABLES, *_site((ESTABLISHED, ACCEPT))])
    found = forwarding_stopped(firewall, (NAT, OUR), "uplink")
    assert _found(found) == {("default", "out"), ("training-network", "out")}
    assert {each.owner for each in found} == {"the table inet site"}
    start, end = ("nft", "insert", "rule", "inet", "site", "forward"), ("accept", "comment", f'"{COMMENT}"')
    assert found[0].open == ((*start, "iifname", '"virbr0"', "oifname", '"uplink"', *end),)
    assert found[1].open == ((*start, "iifname", '"br-training"', *end),)
    assert found[0].undo == ()


def test_what_was_put_into_a_table_is_found_again_by_its_comment() -> None:
    ours = _rule("forward", _on("iifname", "virbr0"), ACCEPT, table=SITE, handle=7, comment=COMMENT)
    theirs = _rule("forward", ACCEPT, table=SITE, handle=6, comment="theirs")
    ruleset = json.dumps({"nftables": [*_site(), theirs, ours]})
    assert taken_back(ruleset) == (("nft", "delete", "rule", "inet", "site", "forward", "handle", "7"),)
    assert taken_back(json.dumps({"nftables": IPTABLES})) == ()
    assert taken_back("") == ()


@pytest.mark.parametrize(
    ("match", "stops"),
    [
        (_address("daddr", "8.8.8.8"), True),
        (_address("saddr", {"prefix": {"addr": "192.168.122.0", "len": 24}}), True),
        (_address("saddr", {"prefix": {"addr": "192.168.0.0", "len": 20}}), False),
        (_address("saddr", {"range": ["192.168.122.1", "192.168.122.9"]}), True),
        (_address("saddr", {"set": ["10.0.0.1", {"prefix": {"addr": "192.168.122.0", "len": 30}}]}), True),
        (_address("saddr", "192.168.122.0/24", "!="), False),
        (_address("daddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}, "!="), True),
        ({"match": {"op": "!=", "left": {"payload": {"protocol": "ip6", "field": "saddr"}}, "right": "::1"}}, False),
        ({"limit": {"rate": 1, "burst": 5, "per": "second"}}, False),
        (_on("mark", 3), False),
    ],
)
def test_a_rule_with_addresses_stops_what_has_them(match: dict[str, Any], stops: bool) -> None:
    firewall = _firewall([*IPTABLES, *_site((match, DROP), policy="accept")])
    assert (("default", "out") in _found(forwarding_stopped(firewall, (NAT,), "uplink"))) is stops


def test_sets_of_links_and_addresses_together_are_looked_up() -> None:
    named = {"family": "inet", "table": "site", "name": "bad", "type": ["ifname", "ipv4_addr"]}
    pair = {"concat": [{"meta": {"key": "iifname"}}, {"payload": {"protocol": "ip", "field": "saddr"}}]}
    rule = ({"match": {"op": "==", "left": pair, "right": "@bad"}}, DROP)
    for network, stops in (("192.168.122.0", True), ("192.168.123.0", False)):
        elements = [{"concat": ["virbr0", {"prefix": {"addr": network, "len": 24}}]}]
        entries = [*_site(rule, policy="accept"), {"set": {**named, "elem": elements}}]
        assert bool(forwarding_stopped(_firewall(entries), (NAT,), "uplink")) is stops


def test_somebody_who_drops_one_protocol_has_chosen() -> None:
    to_https = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 443}}
    (found,) = forwarding_stopped(_firewall(_site((to_https, DROP), policy="accept")), (NAT,), "uplink")
    assert found.protocols == ("tcp",)
    assert not found.whole


def test_a_reject_of_libvirts_own_is_not_another_firewall() -> None:
    for entries in (
        _without(IPTABLES, "LIBVIRT_FWO", "virbr0", "accept"),
        _without(NFTABLES, "guest_output", "virbr0", "accept"),
        _without(IPTABLES, "LIBVIRT_FWX", "virbr0"),
    ):
        assert forwarding_stopped(_firewall(entries), WAYS, "uplink") == []
        assert within_stopped(_firewall(entries), WAYS, True) == []


def test_the_old_iptables_drops_beside_the_new_one() -> None:
    legacy = {"filter": "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n"}
    found = forwarding_stopped(_firewall(IPTABLES, legacy=legacy), (NAT,), "uplink")
    assert _found(found) == {("default", "out"), ("default", "back")}
    assert {(each.owner, each.where) for each in found} == {("iptables-legacy", "iptables-legacy filter FORWARD")}
    assert {each.open[0][0] for each in found} == {"iptables-legacy"}
    opened = "".join(f"-A {' '.join(each.open[0][2:])}\n" for each in found)
    assert forwarding_stopped(_firewall(IPTABLES, legacy={"filter": legacy["filter"] + opened}), (NAT,), "uplink") == []


def _at(hook: str, *rules: Iterable[dict[str, Any]], prio: int = 0, policy: str = "accept") -> Entries:
    """The same, at another hook."""
    base = _chain("forward", policy, SITE, hook=hook, prio=prio)
    return [base, *(_rule("forward", *each, table=SITE) for each in rules)]


@pytest.mark.parametrize(
    ("hook", "match", "stopped"),
    [
        ("prerouting", _on("iifname", "virbr0"), {"out"}),
        ("prerouting", _on("oifname", "uplink"), set()),  # nobody knows yet
        ("prerouting", _address("daddr", {"prefix": {"addr": "192.168.122.0", "len": 24}}), {"back"}),
        ("prerouting", _address("daddr", {"prefix": {"addr": "192.168.123.0", "len": 24}}), {"back"}),
        ("postrouting", _on("oifname", "uplink"), {"out"}),
        ("postrouting", _on("oifname", "virbr1"), {"back"}),
        ("input", _on("iifname", "virbr0"), set()),
        ("output", _on("oifname", "uplink"), set()),
    ],
)
def test_who_drops_before_or_after_routing_is_named_and_not_opened(
    hook: str, match: dict[str, Any], stopped: set[str]
) -> None:
    way = ROUTE if "virbr1" in str(match) or "123.0" in str(match) else NAT
    found = forwarding_stopped(_firewall([*IPTABLES, *_at(hook, (match, DROP))]), (way,), "uplink")
    assert {each.way for each in found} == stopped
    for each in found:
        assert (each.owner, each.open, each.undo) == ("the table inet site", (), ())
        assert each.look == ("nft", "list", "chain", "inet", "site", "forward")


@pytest.mark.parametrize(
    ("hook", "prio", "way", "field", "stopped"),
    [
        ("prerouting", -300, NAT, "daddr", set()),  # the host's address, still
        ("prerouting", -100, NAT, "daddr", set()),  # who knows which of the two is first
        ("prerouting", -99, NAT, "daddr", {"back"}),
        ("prerouting", -300, OUR, "daddr", set()),
        ("prerouting", -300, ROUTE, "daddr", {"back"}),
        ("postrouting", 300, NAT, "saddr", set()),  # the host's address, already
        ("postrouting", 100, NAT, "saddr", set()),
        ("postrouting", 300, OUR, "saddr", set()),
        ("postrouting", 0, NAT, "saddr", {"out"}),
        ("postrouting", 0, OUR, "saddr", {"out"}),
        ("postrouting", 300, ROUTE, "saddr", {"out"}),
    ],
)
def test_chains_see_the_addresses_that_packets_have_there(
    hook: str, prio: int, way: Way, field: str, stopped: set[str]
) -> None:
    link = _on("oifname" if hook == "postrouting" else "iifname", "uplink")
    network = _address(field, {"prefix": {"addr": str(way.subnet.network_address), "len": 24}})
    entries = [*IPTABLES, *_at(hook, (link, network, DROP), prio=prio)]
    assert {each.way for each in forwarding_stopped(_firewall(entries), (way,), "uplink")} == stopped


@pytest.mark.parametrize(("table", "stopped"), [("raw", set()), ("mangle", set()), ("security", {"back"})])
def test_tables_of_iptables_have_their_place(table: str, stopped: set[str]) -> None:
    """Not that `security` had that chain: it has the place behind."""
    text = "-P PREROUTING ACCEPT\n-A PREROUTING -i uplink -d 192.168.122.0/24 -j DROP\n"
    for way, found in ((NAT, stopped), (replace(ROUTE, subnet=NAT.subnet), {"back"})):
        firewall = _firewall(IPTABLES, legacy={table: text})
        assert {each.way for each in forwarding_stopped(firewall, (way,), "uplink")} == found


# What cannot be understood.

_FIB = {"fib": {"result": "type", "flags": "daddr"}}
_LOCAL = {"match": {"op": "==", "left": _FIB, "right": {"set": ["local", "broadcast"]}}}
_MASKED = {
    "match": {"op": "!=", "left": {"&": [{"ct": {"key": "state"}}, ["established", "related"]]}, "right": 0},
}
_ON_A_BRIDGE = _on("iifkind", "bridge")

_BASICS = """-P INPUT DROP
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"""
_UFW = """-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-N ufw-before-forward
-N ufw-before-input
-N ufw-logging-deny
-N ufw-not-local
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 3 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 11 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 12 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-logging-deny -m conntrack --ctstate INVALID -m limit --limit 3/min --limit-burst 10 -j RETURN
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
"""


def _iptables(text: str) -> Firewall:
    return _firewall([_chain("INPUT", "drop", hook="input")], iptables={"filter": text})


@pytest.mark.parametrize("old", [True, False], ids=["iptables-legacy", "iptables"])
@pytest.mark.parametrize(
    ("base", "rule", "refusing"),
    [
        (
            _BASICS,
            "-i virbr1 -p udp -m multiport --dports 53,67 -j ACCEPT",
            "-i virbr2 -m multiport --dports 53 -j ACCEPT",
        ),
        (
            _BASICS,
            "-m iprange --src-range 192.168.123.1-192.168.123.9 -j ACCEPT",
            "-m iprange --src-range 1.1.1.1-1.1.1.9 -j DROP",
        ),
        (_BASICS, "-m mark --mark 0x7 -g taken", "-m mark --mark 0x7 -g refused"),
        (_BASICS, "-i virbr1 -j NFQUEUE --queue-num 1", "-i virbr1 -j NFLOG --nflog-group 1"),
        (_UFW, "-i virbr1 -j ACCEPT", "-i virbr2 -j ACCEPT"),
    ],
    ids=["multiport", "iprange", "goto", "queue", "ufw"],
)
def test_what_a_rule_may_accept_that_is_not_understood_is_not_said_to_be_dropped(
    base: str, rule: str, refusing: str, old: bool
) -> None:
    chains = "-N taken\n-A taken -i virbr1 -j ACCEPT\n-N refused\n-A refused -j DROP\n"

    def found(rule: str) -> set[tuple[str, str]]:
        text = f"{base}-A INPUT {rule}\n{chains}"
        firewall = _firewall([], legacy={"filter": text}) if old else _iptables(text)
        return _found(asking_stopped(firewall, (ROUTE,)))

    assert found(rule) == set()
    assert found(refusing) == {("road", "asking")}


@pytest.mark.parametrize(
    "rule",
    [
        (_LOCAL, ACCEPT),
        (_ON_A_BRIDGE, ACCEPT),
        (_on("mark", 7), ACCEPT),
        (_on("mark", 7), {"jump": {"target": "more"}}),
        (_on("mark", 7), {"goto": {"target": "more"}}),
        (_on("mark", 7), {"queue": {"num": 1}}),
        ({"vmap": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[3, DROP], [7, ACCEPT]]}}},),
        ({"xt": {"type": "match", "name": "multiport"}}, ACCEPT),
        ({"jump": {"target": "maybe"}},),
    ],
)
def test_rules_of_nft_may_let_pass_what_comes_to_them(rule: Iterable[dict[str, Any]]) -> None:
    others = [
        _chain("more", table=SITE),
        _rule("more", ACCEPT, table=SITE),
        _chain("maybe", table=SITE),
        _rule("maybe", _on("mark", 7), ACCEPT, table=SITE),
    ]
    for last, policy in (((), "drop"), (((DROP,),), "accept")):
        asked = [*_at("input", rule, *last, policy=policy), *others]
        assert asking_stopped(_firewall(asked), (NAT,)) == []
        assert asking_stopped(_firewall([*_at("input", *last, policy=policy), *others]), (NAT,))


@pytest.mark.parametrize(
    "rule",
    [
        (_on("mark", 7), DROP),
        (_on("mark", 7), {"log": None}),
        (_on("mark", 7), {"counter": None}),
        (_on("mark", 7), {"jump": {"target": "refusing"}}),
        (_on("mark", 7), {"jump": {"target": "nothing"}}),
        (_on("mark", 7), {"return": None}),  # to the same policy
        (_on("iifname", "lo"), _on("mark", 7), ACCEPT),
        (_on("mark", 7), _on("iifname", "lo"), ACCEPT),
        ({"vmap": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[3, DROP], [7, DROP]]}}},),
    ],
)
def test_what_lets_nothing_pass_leaves_a_drop_certain(rule: Iterable[dict[str, Any]]) -> None:
    others = [
        _chain("refusing", table=SITE),
        _rule("refusing", _on("iifname", "lo"), ACCEPT, table=SITE),
        _rule("refusing", {"reject": None}, table=SITE),
        _chain("nothing", table=SITE),
        _rule("nothing", {"return": None}, table=SITE),
    ]
    assert asking_stopped(_firewall([*_at("input", rule, policy="drop"), *others]), (NAT,))


def test_a_return_that_is_not_understood_matters_where_what_comes_after_it_is_something_else() -> None:
    back = (_on("mark", 7), {"return": None})
    assert asking_stopped(_firewall(_at("input", back, (DROP,), policy="accept")), (NAT,)) == []
    assert asking_stopped(_firewall(_at("input", back, (DROP,), policy="drop")), (NAT,))


def test_what_a_chain_may_do_counts_however_often_it_is_come_to() -> None:
    """The chain is followed once: what it leaves open must be open for each who jumps there."""
    maybe = [_chain("maybe", table=SITE), _rule("maybe", _on("mark", 7), ACCEPT, table=SITE)]
    maybe.append(_rule("maybe", {"return": None}, table=SITE))
    jump, unsure = {"jump": {"target": "maybe"}}, _on("mark", 8)
    for rules in ([(jump,)], [(unsure, jump)], [(jump,), (jump,)], [(unsure, jump), (jump,)]):
        assert forwarding_stopped(_firewall([*_site(*rules), *maybe]), (NAT,), "uplink") == []
    both = _found(forwarding_stopped(_firewall([*_site(), *maybe]), (NAT,), "uplink"))
    assert both == {("default", "out"), ("default", "back")}


@pytest.mark.parametrize(
    "rules",
    [
        [(_ON_A_BRIDGE, ACCEPT), (_MASKED, ACCEPT)],
        [(_on("mark", 7), ACCEPT)],
    ],
    ids=["kind of link", "mark"],
)
def test_forwarding_that_a_rule_may_accept_is_not_said_to_be_dropped(rules: list[Iterable[dict[str, Any]]]) -> None:
    mark = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 7}}
    before = [
        _chain("before", "accept", SITE, hook="prerouting", prio=-150),
        _rule("before", _on("iifname", "virbr0"), mark, table=SITE),
    ]
    assert forwarding_stopped(_firewall([*before, *_site(*rules)]), (NAT,), "uplink") == []
    assert forwarding_stopped(_firewall([*before, *_site()]), (NAT,), "uplink")


def test_what_comes_for_the_hosts_own_address_may_be_answers_to_nodes() -> None:
    uplink, own = _on("iifname", "uplink"), _address("daddr", "203.0.113.2")
    entries = _at("prerouting", (uplink, own, ACCEPT), (uplink, DROP), prio=-300)
    assert forwarding_stopped(_firewall(entries), (NAT, OUR), "uplink") == []
    assert _found(forwarding_stopped(_firewall(entries), (ROUTE,), "uplink")) == {("road", "back")}
    entries = _at("prerouting", (uplink, own, ACCEPT), (uplink, DROP), prio=0)
    assert _found(forwarding_stopped(_firewall(entries), (NAT,), "uplink")) == {("default", "back")}


def test_ufws_forward_and_input_are_certain_for_all_its_rules() -> None:
    """Its ICMP passes, and what `ufw-not-local` leaves open is dropped afterwards."""
    firewall = _firewall([], legacy={"filter": _UFW})
    (found,) = forwarding_stopped(firewall, (NAT,), "uplink")
    assert (found.way, found.owner, found.protocols) == ("out", "ufw", ("tcp", "udp"))
    (found,) = asking_stopped(firewall, (NAT,))
    assert (found.protocols, found.why) == (("DNS", "DHCP"), "the policy of iptables-legacy filter INPUT is drop")


@pytest.mark.parametrize(("kind", "passes"), [("8", True), ("8/0", True), ("any", True), ("3/1", False), ("0", False)])
def test_kinds_of_icmp_are_understood(kind: str, passes: bool) -> None:
    text = f"-P FORWARD DROP\n-A FORWARD -i virbr0 -p icmp -m icmp --icmp-type {kind} -j ACCEPT\n"
    found = forwarding_stopped(_firewall([], legacy={"filter": text}), (NAT,), "uplink")
    (out,) = (each for each in found if each.way == "out")
    assert ("icmp" not in out.protocols) is passes


def test_masquerading_that_a_rule_may_prevent_is_not_said_to_be_missing() -> None:
    base = "-P PREROUTING ACCEPT\n-P POSTROUTING ACCEPT\n-N mine\n-A POSTROUTING -j mine\n"
    excepted = "-A mine -m policy --dir out --pol ipsec -j RETURN\n-A mine -o uplink -j MASQUERADE\n"
    assert not_masqueraded(_firewall([], legacy={"nat": base + excepted}), (NAT,), "uplink") == []
    # Of somebody else's packets: Tailscale's, or a cluster's of Kubernetes.
    marked = "-A mine -m mark --mark 0x40000/0xff0000 -j MASQUERADE\n"
    assert not_masqueraded(_firewall([], legacy={"nat": base + marked}), (NAT,), "uplink")


# What the gateway answers.


def test_a_rule_that_drops_answers_of_the_gateway_is_found_and_not_opened() -> None:
    text = "-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-A OUTPUT -o virbr0 -j DROP\n"
    (found,) = asking_stopped(_firewall(IPTABLES, legacy={"filter": text}), (NAT, ROUTE))
    assert (found.network, found.way, found.protocols) == ("default", "answering", ("DNS", "DHCP"))
    assert found.why == "answers end there: a rule of iptables-legacy filter OUTPUT drops it: oifname virbr0 drop"
    assert (found.open, found.undo) == ((), ())
    assert found.look == ("iptables-legacy", "-t", "filter", "-S", "OUTPUT")


_LOOPBACK = (_on("oifname", {"set": ["lo", "uplink"]}), ACCEPT)
_PORT_68 = {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 68}}


@pytest.mark.parametrize(
    ("rules", "kinds"),
    [
        ([_LOOPBACK], ("DNS", "DHCP")),
        ([_LOOPBACK, (_PORT_68, ACCEPT)], ("DNS",)),
        ([_LOOPBACK, (ESTABLISHED, ACCEPT)], ()),
        ([_LOOPBACK, (_PORT_68, _address("daddr", "255.255.255.255"), ACCEPT)], ("DNS",)),
        ([_LOOPBACK, (_on("iifname", ""), ACCEPT)], ()),
        ([_LOOPBACK, (_on("skuid", 118), ACCEPT)], ()),  # nobody knows
        ([(_on("oifname", "virbr*"), ACCEPT)], ()),
    ],
)
@pytest.mark.parametrize("hook", ["output", "postrouting"])
def test_answers_of_the_gateway_must_be_accepted(
    hook: str, rules: list[Iterable[dict[str, Any]]], kinds: tuple[str, ...]
) -> None:
    found = asking_stopped(_firewall([*IPTABLES, *_at(hook, *rules, policy="drop")]), (NAT,))
    assert [each.protocols for each in found] == ([kinds] if kinds else [])
    for each in found:
        # No policy that a passage opens.
        assert each.why == "answers end there: the policy of inet site forward is drop"
        assert each.look == ("nft", "list", "chain", "inet", "site", "forward")


@pytest.mark.parametrize("backend", BACKENDS)
def test_healthy_rules_let_nodes_ask(backend: str) -> None:
    assert asking_stopped(_firewall(BACKENDS[backend]), WAYS) == []


def test_who_drops_before_routing_also_stops_what_is_asked_of_the_gateway() -> None:
    text = "-P PREROUTING ACCEPT\n-A PREROUTING -i virbr0 -j DROP\n"
    firewall = _firewall(IPTABLES, legacy={"raw": text})
    assert [each.where for each in asking_stopped(firewall, (NAT,))] == ["iptables-legacy raw PREROUTING"]
    (found,) = forwarding_stopped(firewall, (NAT,), "uplink")
    assert found.look == ("iptables-legacy", "-t", "raw", "-S", "PREROUTING")


def test_chains_that_lead_to_each_other_again_and_again_cost_no_more_than_once_each() -> None:
    """As in a bundle that somebody made: 2 to the power of 64 ways, without a loop that a kernel would refuse."""
    jumps = [_rule(f"c{at}", {"jump": {"target": f"c{at + 1}"}}, table=SITE) for at in range(64) for _ in range(2)]
    entries = [*_site(({"jump": {"target": "c0"}},), policy="accept"), *jumps, _rule("c64", DROP, table=SITE)]
    assert forwarding_stopped(_firewall(entries), (NAT,), "uplink")
    returning = [*entries[:-1], _rule("c64", {"return": None}, table=SITE)]
    assert forwarding_stopped(_firewall(returning), (NAT,), "uplink") == []
    loop = [*entries[:-1], _rule("c64", {"jump": {"target": "c0"}}, table=SITE)]
    assert forwarding_stopped(_firewall(loop), (NAT,), "uplink") == []


@pytest.mark.parametrize(
    ("rule", "stops"),
    [
        ("-s 192.168.122.0/24 -j DROP", True),
        ("! -s 192.168.122.0/24 -j DROP", False),
        ("-i virbr+ -o uplink -j REJECT --reject-with icmp-port-unreachable", True),
        ("-i virbr1 -j DROP", False),
        ("-p tcp -m tcp --dport 400:500 -m comment --comment some-thing -j DROP", True),
        ("-p tcp -m multiport --dports 443 -j DROP", False),  # nobody knows
        ("-m conntrack --ctstate INVALID -j DROP", False),
        ("-m conntrack --ctstate NEW -j DROP", True),
        ("-i virbr0 -j mine", True),
        ("-i virbr0 -j LOG --log-prefix DROP", False),
        ("-i virbr0 -j RETURN", False),
    ],
)
def test_rules_of_iptables_are_understood(rule: str, stops: bool) -> None:
    text = f"-P FORWARD ACCEPT\n-N mine\n-A FORWARD {rule}\n-A mine -d 8.8.8.8/32 -j DROP\n"
    found = forwarding_stopped(_firewall([], legacy={"filter": text}), (NAT,), "uplink")
    assert ("out" in {each.way for each in found}) is stops


def test_firewalld_is_asked_to_move_a_bridge_into_libvirts_zone() -> None:
    firewalld = Firewall((CAPTURES / "firewalld-1.3.json").read_text())
    known = [replace(NAT, bridge="br-a"), replace(ROUTE, bridge="br-b")]
    assert forwarding_stopped(firewalld, known, "uplink") == []
    found = forwarding_stopped(firewalld, [replace(NAT, bridge="br-stray")], "uplink")
    assert found
    assert {each.owner for each in found} == {"firewalld"}
    assert found[0].open == (("firewall-cmd", "--zone=libvirt", "--change-interface=br-stray"),)
    assert found[0].undo == (("firewall-cmd", "--zone=libvirt", "--remove-interface=br-stray"),)


# What libvirt's own rules lack.


def test_a_flushed_ruleset_has_no_rules_of_libvirts() -> None:
    (found,) = libvirt_rules_missing(_firewall([]), WAYS)
    assert (found.kind, found.backend) == (Lack.WHOLE, "")
    assert found.networks == ("default", "road", "closed", "training-network", "inference-network")
    assert libvirt_rules_missing(_firewall([]), (OPEN,)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_chains_of_libvirts_lack_the_whole(backend: str) -> None:
    def of_libvirt(kind: str, data: dict[str, Any]) -> bool:
        return kind == "rule" and data["family"] == "ip"

    (found,) = libvirt_rules_missing(_firewall(_dropped(BACKENDS[backend], of_libvirt)), WAYS)
    assert (found.kind, found.backend) == (Lack.WHOLE, backend)
    assert len(found.networks) == 5


def test_a_jump_that_is_gone_takes_all_rules_along() -> None:
    entries = IPTABLES
    for chain in ("LIBVIRT_FWX", "LIBVIRT_FWI", "LIBVIRT_FWO"):
        entries = _without(entries, "FORWARD", chain)
    (found,) = [each for each in libvirt_rules_missing(_firewall(entries), WAYS) if each.kind is Lack.WHOLE]
    assert len(found.networks) == 5
    without_nat = _dropped(
        IPTABLES, lambda kind, data: kind == "rule" and (data["table"], data["chain"]) == ("nat", "POSTROUTING")
    )
    (found,) = libvirt_rules_missing(_firewall(without_nat), WAYS)
    assert (found.kind, found.networks) == (Lack.NAT, ("default",))


@pytest.mark.parametrize(
    ("backend", "chain", "parts", "kind"),
    [
        ("iptables", "LIBVIRT_PRT", ("MASQUERADE",), Lack.NAT),
        ("nftables", "guest_nat", ("masquerade",), Lack.NAT),
        ("iptables", "LIBVIRT_FWI", ("virbr0", "REJECT"), Lack.ISOLATION),
        ("nftables", "guest_output", ("virbr0", "reject"), Lack.ISOLATION),
        ("iptables", "LIBVIRT_FWO", ("virbr0", "accept"), Lack.ACCEPT),
        ("nftables", "guest_input", ("virbr0", "accept"), Lack.ACCEPT),
        ("iptables", "LIBVIRT_FWX", ("virbr0",), Lack.ACCEPT),
        ("iptables", "LIBVIRT_INP", ("virbr0", "udp dport 67"), Lack.ACCEPT),
    ],
)
def test_single_rules_that_are_gone_are_told_apart(
    backend: str, chain: str, parts: tuple[str, ...], kind: Lack
) -> None:
    (found,) = libvirt_rules_missing(_firewall(_without(BACKENDS[backend], chain, *parts)), WAYS)
    assert (found.kind, found.networks, found.backend) == (kind, ("default",), backend)
    assert all(each.startswith(f"{chain}: ") for each in found.rules)


def test_what_masquerades_only_some_protocols_is_not_the_whole_of_it() -> None:
    entries = _dropped(
        IPTABLES,
        lambda kind, data: (
            kind == "rule"
            and data["chain"] == "LIBVIRT_PRT"
            and "MASQUERADE" in words(data["expr"])
            and "l4proto" not in words(data["expr"])
        ),
    )
    (found,) = libvirt_rules_missing(_firewall(entries), WAYS)
    assert (found.kind, len(found.rules)) == (Lack.NAT, 1)
    ((network, why),) = not_masqueraded(_firewall(entries), WAYS, "uplink")
    assert network == "default"
    assert "(icmp)" in why


def test_a_network_that_has_lost_all_its_rules_is_named_alone() -> None:
    gone = _dropped(IPTABLES, lambda kind, data: kind == "rule" and "virbr1" in json.dumps(data))
    (found,) = libvirt_rules_missing(_firewall(gone), WAYS)
    assert (found.kind, found.networks) == (Lack.WHOLE, ("road",))


LEGACY = {
    "filter": """-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-N LIBVIRT_FWI
-N LIBVIRT_FWO
-N LIBVIRT_FWX
-N LIBVIRT_INP
-N LIBVIRT_OUT
-A INPUT -j LIBVIRT_INP
-A FORWARD -j LIBVIRT_FWX
-A FORWARD -j LIBVIRT_FWI
-A FORWARD -j LIBVIRT_FWO
-A OUTPUT -j LIBVIRT_OUT
-A LIBVIRT_FWI -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWO -s 192.168.122.0/24 -i virbr0 -j ACCEPT
-A LIBVIRT_FWO -i virbr0 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 67 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 68 -j ACCEPT
""",
    "nat": """-P PREROUTING ACCEPT
-P POSTROUTING ACCEPT
-N LIBVIRT_PRT
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 255.255.255.255/32 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p udp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
""",
}


def test_libvirts_rules_may_be_in_the_old_tables() -> None:
    firewall = Firewall("", legacy=LEGACY)
    assert libvirt_rules_missing(firewall, (NAT,)) == []
    assert forwarding_stopped(firewall, (NAT,), "uplink") == []
    assert not_masqueraded(firewall, (NAT,), "uplink") == []
    bare = "".join(line for line in LEGACY["nat"].splitlines(keepends=True) if "MASQUERADE" not in line)
    broken = replace(firewall, legacy={**LEGACY, "nat": bare})
    (found,) = libvirt_rules_missing(broken, (NAT,))
    assert (found.kind, found.backend) == (Lack.NAT, "iptables-legacy")
    assert [name for name, _ in not_masqueraded(broken, (NAT,), "uplink")] == ["default"]


def test_tables_that_could_not_be_read_lack_nothing() -> None:
    assert libvirt_rules_missing(_firewall([], unread=("ip filter",)), WAYS) == []


def test_what_another_backend_has_left_does_not_count() -> None:
    empty = [_chain("LIBVIRT_FWI"), _chain("LIBVIRT_FWO")]
    assert libvirt_rules_missing(_firewall([*NFTABLES, *empty]), WAYS) == []
    old = _chain("guest_input", table=("ip", "libvirt_network"))
    (found,) = libvirt_rules_missing(_firewall([*_without(IPTABLES, "LIBVIRT_FWI", "virbr0", "REJECT"), old]), WAYS)
    assert (found.kind, found.backend) == (Lack.ISOLATION, "iptables")


# What leaves with the node's own address.


def test_networks_without_masquerading_are_named() -> None:
    assert [name for name, _ in not_masqueraded(_firewall([]), WAYS, "uplink")] == [
        "default",
        "training-network",
        "inference-network",
    ]
    assert not_masqueraded(_firewall([]), WAYS, "") == []
    assert not_masqueraded(Firewall(""), (OUR, ROUTE, OPEN, NONE), "uplink") == []
    bare = _firewall(_without(IPTABLES, "LIBVIRT_PRT", "MASQUERADE"))
    ((name, why),) = not_masqueraded(bare, WAYS, "uplink")
    assert name == "default"
    assert why == (
        "no rule masquerades 192.168.122.2 on its way to uplink; looked in ip nat POSTROUTING, inet ai_how postrouting"
    )


def test_a_rule_of_ours_or_a_member_of_its_set_that_is_gone_is_noticed() -> None:
    names = {"training-network", "inference-network"}
    bare = _firewall(_without(IPTABLES, "postrouting", "masquerade"))
    assert {name for name, _ in not_masqueraded(bare, WAYS, "uplink")} == names
    assert ours_changed(bare).kinds == {Change.NAT}
    (gone,) = ours_changed(bare).missing
    assert (gone.family, gone.chain) == ("inet", "postrouting")
    fewer = _firewall(_members(IPTABLES, "masqueraded", remove=1))
    assert [name for name, _ in not_masqueraded(fewer, WAYS, "uplink")] == ["training-network"]
    assert ours_changed(fewer).kinds == {Change.NAT}
    assert [each.element for each in ours_changed(fewer).members_missing] == ["10.10.1.0/24"]


def test_a_rule_before_that_lets_packets_leave_as_they_are_is_named() -> None:
    place = ("ip", "nat")
    base = _chain("POSTROUTING", "accept", place, type="nat", hook="postrouting", prio=100)
    rule = _rule("POSTROUTING", _address("saddr", "192.168.122.0/24"), ACCEPT, table=place)
    ((_, why),) = not_masqueraded(_firewall([base, rule]), (NAT,), "uplink")
    assert why == "a rule of ip nat POSTROUTING lets it leave as it is: ip saddr 192.168.122.0/24 accept"
    by_somebody = [_rule("POSTROUTING", {"snat": {"addr": "203.0.113.2"}}, table=place)]
    assert not_masqueraded(_firewall([base, *by_somebody]), (NAT,), "uplink") == []


# What of our own tables is not as it was loaded.


def _members(entries: Entries, name: str, *, remove: int = 0, add: Iterable[Any] = (), family: str = "inet") -> Entries:
    """nft delete element, nft add element."""

    def change(kind: str, data: dict[str, Any]) -> dict[str, Any]:
        if kind in ("set", "map") and (data["family"], data["table"], data["name"]) == (family, "ai_how", name):
            return {**data, "elem": [*data.get("elem", [])[remove:], *add]}
        return data

    changed = _edited(entries, change)
    assert changed != entries
    return changed


def _inserted(entries: Entries, chain: str, *expr: dict[str, Any], family: str = "inet", last: bool = False) -> Entries:
    """nft insert rule, nft add rule."""
    places = [
        at
        for at, each in enumerate(entries)
        if "rule" in each and (each["rule"]["family"], each["rule"]["chain"]) == (family, chain)
    ]
    at = places[-1] + 1 if last else places[0]
    return [*entries[:at], _rule(chain, *expr, table=(family, "ai_how")), *entries[at:]]


def test_our_tables_that_are_gone_are_named_by_family() -> None:
    changed = ours_changed(_firewall([]))
    assert changed.gone == ("inet", "arp", "bridge")
    assert changed.kinds == {Change.GONE}
    arp = ours_changed(_firewall(_dropped(IPTABLES, lambda _, data: data["family"] == "arp")))
    assert (arp.gone, arp.missing, arp.kinds) == (("arp",), (), frozenset({Change.GONE}))
    assert arp.lines == ("table arp ai_how is gone or empty",)
    flushed = _dropped(IPTABLES, lambda kind, data: kind == "rule" and data["family"] == "inet")
    assert ours_changed(_firewall(flushed)).gone == ("inet",)


def test_a_chain_that_is_gone_is_named() -> None:
    gone = _dropped(IPTABLES, lambda _, data: "between" in (data.get("name"), data.get("chain")))
    changed = ours_changed(_firewall(gone))
    assert (changed.chains, changed.kinds) == (("inet between",), frozenset({Change.GONE}))


def test_a_denial_that_is_gone_opens_clusters() -> None:
    changed = ours_changed(_firewall(_without(IPTABLES, "between", "other-cluster")))
    assert changed.kinds == {Change.ISOLATION}
    (gone,) = changed.missing
    assert (gone.chain, gone.word) == ("between", Denial.OTHER_CLUSTER)
    assert changed.lines == ('missing in inet between: reject comment "other-cluster"',)
    leads_there = ours_changed(_firewall(_without(IPTABLES, "forward", "goto out_of_cluster", family="inet")))
    assert leads_there.kinds == {Change.ISOLATION}


@pytest.mark.parametrize("chain", ["between", "forward", "to_host"])
def test_an_accept_before_the_denials_opens_clusters(chain: str) -> None:
    changed = ours_changed(_firewall(_inserted(IPTABLES, chain, _on("iifname", "br-training"), ACCEPT)))
    assert changed.kinds == {Change.ISOLATION}
    (extra,) = changed.extra
    assert (extra.chain, extra.text) == (chain, "iifname br-training accept")
    assert (changed.missing, changed.reordered) == ((), ())


def test_an_accept_after_the_denials_opens_nothing() -> None:
    changed = ours_changed(_firewall(_inserted(IPTABLES, "between", ACCEPT, last=True)))
    assert changed.kinds == {Change.OTHER}
    dropping = ours_changed(_firewall(_inserted(IPTABLES, "between", DROP)))
    assert dropping.kinds == {Change.OTHER}


def test_an_accept_of_ours_that_is_there_twice_is_one_too_many() -> None:
    within = next(
        each["rule"]["expr"] for each in IPTABLES if "rule" in each and "@within" in words(each["rule"]["expr"])
    )
    changed = ours_changed(_firewall(_inserted(IPTABLES, "between", *within)))
    assert (len(changed.extra), changed.missing, changed.reordered) == (1, (), ())


def test_a_rule_that_is_gone_and_lets_pass_is_something_else() -> None:
    changed = ours_changed(_firewall(_without(IPTABLES, "gateway_services", "53")))
    assert changed.kinds == {Change.OTHER}


@pytest.mark.parametrize(
    ("name", "element", "text"),
    [
        ("peers", {"concat": ["br-training", "br-zz"]}, "br-training . br-zz"),
        ("host_ports", {"concat": ["br-training", "10.10.1.1", "tcp", 22]}, "br-training . 10.10.1.1 . tcp . 22"),
        (
            "allowed_from",
            {"concat": ["br-training", {"prefix": {"addr": "10.0.0.0", "len": 8}}]},
            "br-training . 10.0.0.0/8",
        ),
        ("nodes", [{"concat": ["tcp", 22]}, "10.10.1.2"], "tcp . 22 : 10.10.1.2"),
    ],
)
def test_a_member_too_many_of_what_lets_pass_opens_clusters(name: str, element: Any, text: str) -> None:
    changed = ours_changed(_firewall(_members(IPTABLES, name, add=[element])))
    assert changed.kinds == {Change.ISOLATION}
    assert [(each.family, each.set, each.element) for each in changed.members_extra] == [("inet", name, text)]


def test_a_bridge_that_is_no_longer_guarded_is_open() -> None:
    changed = ours_changed(_firewall(_members(IPTABLES, "bridges", remove=1)))
    assert changed.kinds == {Change.ISOLATION}
    assert [each.set for each in changed.members_missing] == ["bridges"]


def test_a_member_that_only_denies_more_is_something_else() -> None:
    changed = ours_changed(_firewall(_members(IPTABLES, "peers", remove=1)))
    assert changed.kinds == {Change.OTHER}


def test_members_are_compared_without_their_order() -> None:
    def turned(kind: str, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "elem": data["elem"][::-1]} if kind == "set" and "elem" in data else data

    assert ours_changed(_firewall(_edited(IPTABLES, turned))).intact


def test_counters_and_handles_are_not_compared() -> None:
    def counted(kind: str, data: dict[str, Any]) -> dict[str, Any]:
        if kind != "rule":
            return data
        expr = [{"counter": {"packets": 9, "bytes": 900}} if "counter" in each else each for each in data["expr"]]
        return {**data, "handle": 999, "expr": expr}

    assert ours_changed(_firewall(_edited(IPTABLES, counted))).intact


def test_another_order_of_denials_is_noticed() -> None:
    places = [at for at, each in enumerate(IPTABLES) if "rule" in each and each["rule"]["chain"] == "between"]
    first, last = places[0], places[-1]
    turned = [*IPTABLES[:first], IPTABLES[last], *IPTABLES[first:last], *IPTABLES[last + 1 :]]
    changed = ours_changed(_firewall(turned))
    assert (changed.reordered, changed.missing, changed.extra) == (("inet between",), (), ())
    assert changed.kinds == {Change.ISOLATION}


def test_another_policy_is_noticed() -> None:
    def dropping(kind: str, data: dict[str, Any]) -> dict[str, Any]:
        ours = kind == "chain" and (data["family"], data["name"]) == ("inet", "input")
        return {**data, "policy": "drop"} if ours else data

    changed = ours_changed(_firewall(_edited(IPTABLES, dropping)))
    assert (changed.altered, changed.kinds) == (("chain inet input",), frozenset({Change.OTHER}))


def test_nothing_is_compared_with_what_nobody_remembers() -> None:
    assert ours_changed(replace(_firewall([]), loaded=None)).intact
    assert ours_changed(_firewall([], unread=("inet ai_how", "arp ai_how", "bridge ai_how"))).intact


# Rules in words, and small networks.


def test_every_rule_of_the_captures_has_words() -> None:
    for entries in (*BACKENDS.values(), _captured("firewalld-1.3.json")):
        for each in entries:
            if "rule" in each:
                assert words(each["rule"]["expr"])
    table = read_iptables(LEGACY["filter"])
    assert words(table.rules["LIBVIRT_FWX"][0]) == "iifname virbr0 oifname virbr0 accept"
    assert {each.name for each in read_tables(json.dumps({"nftables": IPTABLES}))} >= {"filter", "nat", "ai_how"}


def test_a_small_network_has_nodes_beside_its_gateway() -> None:
    assert NAT.nodes == (IPv4Address("192.168.122.2"), IPv4Address("192.168.122.4"))
    small = replace(NAT, subnet=IPv4Network("10.0.0.0/30"), gateway=IPv4Address("10.0.0.2"))
    assert small.nodes == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.1"))


def test_a_network_that_may_leave_by_one_link_has_rules_that_name_it() -> None:
    def by_uplink(kind: str, data: dict[str, Any]) -> dict[str, Any]:
        if kind != "rule":
            return data
        text = words(data["expr"])
        forwards = data["chain"] in ("LIBVIRT_FWO", "LIBVIRT_FWI") and "virbr0" in text and "accept" in text
        if not forwards and not (data["chain"] == "LIBVIRT_PRT" and "192.168.122.0/24" in text and "!=" in text):
            return data
        key = "iifname" if data["chain"] == "LIBVIRT_FWI" else "oifname"
        return {**data, "expr": [_on(key, "uplink"), *data["expr"]]}

    changed = _edited(IPTABLES, by_uplink)
    assert changed != IPTABLES
    assert libvirt_rules_missing(_firewall(changed), [replace(NAT, device="uplink")]) == []
    for entries, way in ((IPTABLES, replace(NAT, device="uplink")), (changed, NAT)):
        assert {each.kind for each in libvirt_rules_missing(_firewall(entries), [way])} == {Lack.ACCEPT, Lack.NAT}


@pytest.mark.parametrize("backend", BACKENDS)
def test_libvirt_fills_again_what_has_all_chains_and_is_reached(backend: str) -> None:
    entries = BACKENDS[backend]
    assert libvirts_chains_are_whole(_firewall(entries))
    chain = {"iptables": "LIBVIRT_FWO", "nftables": "guest_output"}[backend]
    flushed = _dropped(entries, lambda kind, data: kind == "rule" and data["chain"] == chain)
    assert libvirts_chains_are_whole(_firewall(flushed))
    gone = _dropped(flushed, lambda kind, data: kind == "chain" and data["name"] == chain)
    assert not libvirts_chains_are_whole(_firewall(gone))
    led_nowhere = _without(entries, {"iptables": "FORWARD", "nftables": "forward"}[backend], f"jump {chain}")
    assert not libvirts_chains_are_whole(_firewall(led_nowhere))
    assert not libvirts_chains_are_whole(_firewall(OURS))


def test_tables_of_the_moment_show_that_somebody_was_killed() -> None:
    """Nothing else is told then: what is missing in our tables is in force in those."""
    left = {"table": {"family": "inet", "name": NEXT}}
    changed = ours_changed(_firewall([*_dropped(IPTABLES, lambda kind, data: data.get("table") == TABLE), left]))
    assert (changed.cut_off, changed.intact, changed.lines) == (True, False, ())
    assert not ours_changed(_firewall(IPTABLES)).cut_off


def test_of_a_network_that_may_leave_by_one_link_only_that_way_is_followed() -> None:
    site = _site((_on("oifname", "uplink"), DROP), policy="accept")
    firewall = _firewall([*IPTABLES, *site])
    assert _found(forwarding_stopped(firewall, (NAT,), "uplink")) == {("default", "out")}
    assert forwarding_stopped(firewall, (replace(NAT, device="another"),), "uplink") == []
    (found,) = forwarding_stopped(firewall, (replace(NAT, device="uplink"),), "another")
    assert found.open[0][-7:-3] == ("iifname", '"virbr0"', "oifname", '"uplink"')
