"""What of our own tables is not as it was loaded, and what that means."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ai_how.diagnose.facts import Firewall
from ai_how.diagnose.rules.ways import entries_of
from ai_how.host.packet_walk import Rule, term, words
from ai_how.resources.firewall import NEXT, TABLE, Denial
from ai_how.resources.ruleset import FAMILIES


class Change(StrEnum):
    """What a change of our tables means: whole parts are gone, clusters are less apart, what leaves is not masqueraded,
    or something else."""

    GONE = "gone"
    ISOLATION = "isolation"
    NAT = "nat"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class OurRule:
    """A rule of our tables; `word` is its comment, by which denials are known (resources/firewall.py)."""

    family: str
    chain: str
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """An element of a set or map of our tables, as text."""

    family: str
    set: str
    element: str


@dataclass(frozen=True, slots=True)
class OursChanged:
    """How our tables differ from what was loaded. Chains and sets are named with their family (`inet between`).

    `gone` are families whose table is gone or has no rule left; what such a table had is not listed besides.
    `reordered` are chains with the same rules in another order, `altered` chains and sets of another kind, hook,
    priority or policy. `cut_off`: whoever replaced them was killed at that, and the tables of the moment in between are
    still there; then nothing else is told.
    """

    gone: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    missing: tuple[OurRule, ...] = ()
    extra: tuple[OurRule, ...] = ()
    members_missing: tuple[Member, ...] = ()
    members_extra: tuple[Member, ...] = ()
    reordered: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    kinds: frozenset[Change] = field(default_factory=frozenset)
    cut_off: bool = False

    @property
    def intact(self) -> bool:
        return not self.kinds and not self.cut_off

    @property
    def lines(self) -> tuple[str, ...]:
        """What differs, one a line."""
        return (
            *(f"table {family} {TABLE} is gone or empty" for family in self.gone),
            *(f"chain {name} is gone" for name in self.chains),
            *(f"set {name} is gone" for name in self.sets),
            *(f"missing in {each.family} {each.chain}: {_with_word(each)}" for each in self.missing),
            *(f"not ours in {each.family} {each.chain}: {_with_word(each)}" for each in self.extra),
            *(f"missing in set {each.family} {each.set}: {each.element}" for each in self.members_missing),
            *(f"not ours in set {each.family} {each.set}: {each.element}" for each in self.members_extra),
            *(f"another order in chain {name}" for name in self.reordered),
            *(f"{name} was altered" for name in self.altered),
        )


def _with_word(rule: OurRule) -> str:
    return f'{rule.text} comment "{rule.word}"' if rule.word else rule.text


#: Whose members let pass, or keep from being denied: more of them, and clusters are less apart (resources/ruleset.py).
_ALLOWING = frozenset(
    {
        *("peers", "peers_gateways", "host_ports", "allowed_from", "ways_out", "uplinks", "egress_allowed", "exposed"),
        *("own_gateway", "within", "sources", "nodes", "ports"),
    }
)
#: Whose members are guarded or denied: fewer of them, and clusters are less apart.
_GUARDING = frozenset({"bridges", "subnets", "blocked", "egress_denied", "gateways"})
_DENIALS = frozenset(str(each) for each in Denial)


@dataclass(slots=True)
class _Held:
    """One of our tables as data: chains and sets by name with what they are, rules by chain, elements by set."""

    chains: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[tuple[str, Mapping[str, Any]]]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    members: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Differences:
    """What OursChanged is made of, while it is being found."""

    gone: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    missing: list[OurRule] = field(default_factory=list)
    extra: list[OurRule] = field(default_factory=list)
    members_missing: list[Member] = field(default_factory=list)
    members_extra: list[Member] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    kinds: set[Change] = field(default_factory=set)

    def result(self) -> OursChanged:
        return OursChanged(
            gone=tuple(self.gone),
            chains=tuple(self.chains),
            sets=tuple(self.sets),
            missing=tuple(self.missing),
            extra=tuple(self.extra),
            members_missing=tuple(self.members_missing),
            members_extra=tuple(self.members_extra),
            reordered=tuple(self.reordered),
            altered=tuple(self.altered),
            kinds=frozenset(self.kinds),
        )


def ours_changed(firewall: Firewall) -> OursChanged:
    """How our tables are otherwise than right after they were loaded, but for handles and counters.

    No difference where nobody knows how they were (`loaded` is None), and in tables that could not be read.
    """
    entries = entries_of(firewall.ruleset)
    if any(each["table"]["name"] == NEXT for each in entries if "table" in each):
        return OursChanged(cut_off=True)
    found = _Differences()
    have = _ours(entries)
    for family, want in _ours(entries_of(firewall.loaded or "")).items():
        if f"{family} {TABLE}" in firewall.unread:
            continue
        if family not in have or (any(want.rules.values()) and not any(have[family].rules.values())):
            found.gone.append(family)
            found.kinds.add(Change.GONE)
        else:
            _compare_chains(found, family, want, have[family])
            _compare_sets(found, family, want, have[family])
    return found.result()


def _ours(entries: Iterable[Mapping[str, Any]]) -> dict[str, _Held]:
    """Our tables by family."""
    found: dict[str, _Held] = {}
    for entry in entries:
        ((kind, data),) = entry.items()
        name = data.get("name") if kind == "table" else data.get("table")
        if name != TABLE or data["family"] not in FAMILIES:
            continue
        held = found.setdefault(data["family"], _Held())
        match kind:
            case "chain":
                held.chains[data["name"]] = _kind_of(data)
            case "rule":
                held.rules.setdefault(data["chain"], []).append((_plain(data["expr"], data.get("comment", "")), data))
            case "set" | "map":
                held.sets[data["name"]] = _kind_of(data)
                held.members[data["name"]] = frozenset(map(_element, data.get("elem", ())))
    return found


def _element(value: Any) -> str:
    """An element of a set, or `key : value` of a map's, as text."""
    if isinstance(value, list):
        return " : ".join(map(term, value))
    return term(value)


def _kind_of(data: Mapping[str, Any]) -> str:
    """What a chain or set is, without what it holds."""
    return json.dumps({key: each for key, each in data.items() if key not in ("handle", "elem")}, sort_keys=True)


def _plain(rule: Rule, word: str) -> str:
    """What tells a rule from another: all but its counters."""
    said = [{"counter": None} if "counter" in each else each for each in rule]
    return json.dumps([word, said], sort_keys=True)


def _compare_chains(found: _Differences, family: str, want: _Held, have: _Held) -> None:
    for name, kind in want.chains.items():
        if name not in have.chains:
            found.chains.append(f"{family} {name}")
            found.kinds.add(Change.GONE)
            continue
        if have.chains[name] != kind:
            found.altered.append(f"chain {family} {name}")
            found.kinds.add(Change.OTHER)
        _compare_rules(found, family, name, want.rules.get(name, []), have.rules.get(name, []))
    for name in have.chains:
        if name not in want.chains:
            _compare_rules(found, family, name, [], have.rules.get(name, []))


_Rules = Sequence[tuple[str, Mapping[str, Any]]]


def _compare_rules(found: _Differences, family: str, chain: str, want: _Rules, have: _Rules) -> None:
    lost, more = _without(want, have), _without(have, want)
    for _, rule in lost:
        found.missing.append(_our_rule(family, chain, rule))
        found.kinds.add(_means_missing(chain, rule))
    for _, rule in more:
        found.extra.append(_our_rule(family, chain, rule))
        found.kinds.add(_means_extra(chain, rule, have))
    if _besides(want, lost) != _besides(have, more):
        found.reordered.append(f"{family} {chain}")
        found.kinds.add(Change.ISOLATION if any(map(_denies, want)) else Change.OTHER)


def _without(rules: _Rules, others: _Rules) -> list[tuple[str, Mapping[str, Any]]]:
    """Those of `rules` that `others` does not have, or not as often: of equal ones the first, where nft inserts."""
    left = Counter(each for each, _ in others)
    found = []
    for each in reversed(rules):
        if left[each[0]] > 0:
            left[each[0]] -= 1
        else:
            found.append(each)
    return found[::-1]


def _besides(rules: _Rules, others: _Rules) -> list[str]:
    """What `rules` say without those of them that are in `others`."""
    without = {id(rule) for _, rule in others}
    return [said for said, rule in rules if id(rule) not in without]


def _our_rule(family: str, chain: str, rule: Mapping[str, Any]) -> OurRule:
    return OurRule(family, chain, rule.get("comment", ""), words(rule["expr"]))


def _has(rule: Mapping[str, Any], *kinds: str) -> bool:
    return any(kind in each for each in rule["expr"] for kind in kinds)


def _denies(rule: tuple[str, Mapping[str, Any]]) -> bool:
    """Whether it denies, or leads to a chain that does."""
    return rule[1].get("comment") in _DENIALS or _has(rule[1], "goto", "jump")


def _means_missing(chain: str, rule: Mapping[str, Any]) -> Change:
    leads_to_denials = _has(rule, "goto") or any(jump in words(rule["expr"]) for jump in ("between_ports", "from_node"))
    if rule.get("comment") in _DENIALS or leads_to_denials:
        return Change.ISOLATION
    return Change.NAT if _has(rule, "masquerade") else Change.OTHER


def _means_extra(chain: str, rule: Mapping[str, Any], have: _Rules) -> Change:
    """An accept ends the way through the table before the denials that come after it."""
    if chain == "postrouting":
        return Change.NAT
    place = next(at for at, (_, each) in enumerate(have) if each is rule)
    later = any(map(_denies, have[place + 1 :]))
    lets_pass = _has(rule, "accept", "return", "goto", "jump", "vmap", "dnat", "redirect", "queue")
    return Change.ISOLATION if lets_pass and later else Change.OTHER


def _compare_sets(found: _Differences, family: str, want: _Held, have: _Held) -> None:
    for name, kind in want.sets.items():
        if name not in have.sets:
            found.sets.append(f"{family} {name}")
            found.kinds.add(Change.GONE)
            continue
        if have.sets[name] != kind:
            found.altered.append(f"set {family} {name}")
            found.kinds.add(Change.OTHER)
        for element in sorted(want.members[name] - have.members[name]):
            found.members_missing.append(Member(family, name, element))
            found.kinds.add(_means_member(name, missing=True))
        for element in sorted(have.members[name] - want.members[name]):
            found.members_extra.append(Member(family, name, element))
            found.kinds.add(_means_member(name, missing=False))


def _means_member(name: str, *, missing: bool) -> Change:
    if name == ("masqueraded" if missing else "direct"):
        return Change.NAT
    return Change.ISOLATION if name in (_GUARDING if missing else _ALLOWING) else Change.OTHER
