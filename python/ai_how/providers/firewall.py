"""The firewall table on a host.

Three things are remembered in host/memory: RULES, the very text that was loaded, so that the network hook can load it
again with nft alone; and in APPLIED what it was made of, and what the kernel said it held right after.

A kill while it is loaded may leave the tables of the moment in between (NEXT), which then are all that denies what it
should: that is not intact, and goes when the next load is in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ai_how.errors import NotOurs
from ai_how.host import memory, nftables
from ai_how.host.libvirt import Libvirt
from ai_how.host.nftables import RULES
from ai_how.resources.firewall import NEXT, TABLE, FirewallTable, read_table, write_table
from ai_how.resources.ruleset import FAMILIES, TABLES, at_once, render, render_removal

APPLIED = "firewall-applied.json"


def observe(libvirt: Libvirt, cluster: str) -> list[FirewallTable]:
    """The table, if any family has one of ours, or it is remembered; without root, what was loaded last.

    It is intact where the kernel holds what was loaded, and the hook would load the same.
    """
    applied, rules = memory.recall(APPLIED), memory.recall_text(RULES)
    if not memory.is_root():
        return [] if applied is None else [_remembered(applied, intact=True)]
    if applied is None and rules is None and not nftables.is_installed():
        return []
    ours, _ = _tables()
    if not ours and applied is None and rules is None:
        return []
    whole = all(name == TABLE for _, name in ours)
    seen = {**_digests(family for family, _ in ours), RULES: nftables.read_digest(rules or "")} if whole else {}
    return [_remembered(applied, intact=whole and seen == _digests_of(applied))]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """A table of our names, in any family of ours, that somebody else made. Raises HostError where nft is missing."""
    if TABLE not in names or not memory.is_root():
        return {}
    _, others = _tables()
    return {TABLE: f"{_words(others[0])} (what removes it: {_removal(others)})"} if others else {}


def create(libvirt: Libvirt, want: FirewallTable) -> None:
    """Load all of it, in place of what is there of ours: no packet is lost or let through meanwhile."""
    ours, others = _tables()
    if others:
        raise NotOurs(
            "the firewall is not loaded",
            why=f"there is already {_words(others[0])}",
            remedy=f"Look at it: nft list table {' '.join(others[0])}\nWhat removes it: {_removal(others)}",
        )
    text, cut_off = render(want), any(name == NEXT for _, name in ours)
    with memory.alone():
        nftables.load(at_once(text) if cut_off else text)
        # A kill from here on leaves digests of an older table behind: not intact, and loaded again.
        memory.remember_text(RULES, text)
        memory.remember(
            APPLIED, {**write_table(want), "digests": {**_digests(FAMILIES), RULES: nftables.read_digest(text)}}
        )


def change(libvirt: Libvirt, have: FirewallTable, want: FirewallTable) -> None:
    """Load `want` in place of `have`."""
    if want.clusters or want.intact:
        create(libvirt, want)
    # Else this is an undo to a table that nobody remembers: without rules it would let everything pass.


def remove(libvirt: Libvirt, have: FirewallTable) -> None:
    """Delete our tables of all families, and what was remembered."""
    ours, _ = _tables()
    if ours:
        nftables.load(render_removal(ours))
    memory.forget(RULES)
    memory.forget(APPLIED)


def _tables() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The tables of our names, as family and name: ours, and those of others."""
    found = nftables.read_owners(nftables.list_chains())
    there = [each for each in TABLES if each in found]
    return [each for each in there if found[each]], [each for each in there if not found[each]]


def _digests(families: Iterable[str]) -> dict[str, str]:
    return {each: nftables.read_digest(nftables.list_table(each)) for each in families}


def _digests_of(applied: Any) -> Any:
    return applied.get("digests") if isinstance(applied, Mapping) else None


def _remembered(applied: Any, *, intact: bool) -> FirewallTable:
    """The table that `applied` describes; one without clusters, to be loaded anew, where it describes none."""
    try:
        return read_table(applied, intact=intact)
    except (ValueError, TypeError, KeyError, AttributeError):
        return FirewallTable((), (), intact=False)


def _removal(tables: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"nft delete table {family} {name}" for family, name in tables)


def _words(table: tuple[str, str]) -> str:
    return f"a table {' '.join(table)} that ai-how did not make"
