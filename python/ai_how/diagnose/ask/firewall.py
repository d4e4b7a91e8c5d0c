"""The rules of the kernel: nftables' tables one by one, those of the old iptables, and what ours must look like."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ai_how.diagnose.ask.scratch import list_as_loaded
from ai_how.errors import CommandFailed, HostError, PrivilegeError
from ai_how.host import iptables, memory, nftables
from ai_how.host.process import output


def rules() -> dict[str, Any]:
    """`ruleset`: the entries of nft's JSON of all tables; `unread`: tables that nft could not say; `legacy`: by table,
    `iptables-legacy -S`; `iptables`: the same of those tables that iptables has in nftables; `loaded`: what our tables
    look like right after they were loaded. Needs root."""
    if not memory.is_root():
        raise PrivilegeError("the rules of the firewall were not looked at", why="only root may see them")
    remembered = memory.recall_text(nftables.RULES)
    with ThreadPoolExecutor(2) as aside:
        loaded = aside.submit(_as_loaded, remembered)
        legacy = aside.submit(_legacy)
        entries, unread = _tables()
        own = _iptables(entries)
    return {
        "ruleset": entries,
        "unread": unread,
        "legacy": legacy.result(),
        "iptables": own,
        "loaded": loaded.result(),
    }


def _iptables(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The tables of iptables among those of nftables, as iptables says them. Others it would bring into being."""
    there = {(each["table"]["family"], each["table"]["name"]) for each in entries if "table" in each}
    names = [name for name in iptables.TABLES if ("ip", name) in there]
    try:
        if not names or iptables.variant(output(["iptables", "--version"])) != "nf_tables":
            return {}
        return {name: iptables.list_rules(table=name) for name in names}
    except CommandFailed:
        return {}  # what nft says of them has to do


def _tables() -> tuple[list[Any], list[str]]:
    """nft 1.0.6 spoils its JSON where a table has flags: then each table is asked for by itself."""
    try:
        return json.loads(nftables.run(["-j", "list", "ruleset"]))["nftables"], []
    except (HostError, ValueError):
        pass
    entries: list[Any] = []
    unread = []
    for line in nftables.run(["list", "tables"]).splitlines():
        match line.split():
            case ["table", family, name]:
                try:
                    entries += json.loads(nftables.run(["-j", "list", "table", family, name]))["nftables"]
                except (HostError, ValueError):
                    unread.append(f"{family} {name}")
    return entries, unread


def _as_loaded(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return list_as_loaded(text)
    except HostError:
        return None  # what is remembered is no ruleset: that is told by the check of our memory


def _legacy() -> dict[str, str]:
    try:
        return {name: iptables.list_rules(iptables.LEGACY, name) for name in iptables.legacy_tables()}
    except CommandFailed:
        return {}
