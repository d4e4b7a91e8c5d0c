"""Other firewalls of a host that would stop our nodes' packets: what the kernel has in its tables, and where they end.

A packet must pass every table, and one that drops cannot be overruled by ours. Where it is iptables' we add a passage
(resources/passage.py), everywhere else its owner must open it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how.host import iptables
from ai_how.host.process import output
from ai_how.host.packet_walk import Base, Packet, Table, passes, read_tables
from ai_how.resources.firewall import TABLE

#: Tables that are no obstacle: ours, and what libvirt makes for each of its networks.
_KNOWN = frozenset({TABLE, "libvirt_network"})
#: What libvirt has in iptables' tables for its networks, which accepts by addresses and rejects the rest.
_LIBVIRT_CHAINS = "LIBVIRT_"
_FIREWALLD = ("inet", "firewalld")
_LEGACY = "iptables-legacy"

_LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_LINKS = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One chain that stops packets: what it is, why that matters, and the commands that open it, one a line."""

    what: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Firewalls:
    """What a host says. `ruleset` is nft's JSON; `legacy` are the rules of iptables-legacy where `iptables` is the
    other one, else empty; `links` are the names of its links."""

    ruleset: str
    legacy: str = ""
    links: frozenset[str] = frozenset()


def look() -> Firewalls:
    """Ask the kernel for all tables but those that are no obstacle. Needs root. Raises CommandFailed."""
    entries: list[Any] = []
    for each in json.loads(output(["nft", "-j", "list", "tables"]))["nftables"]:
        if (table := each.get("table")) and _may_matter(table["family"], table["name"]):
            listed = output(["nft", "-j", "list", "table", table["family"], table["name"]])
            entries += json.loads(listed)["nftables"]
    links = frozenset(each.name for each in _LINKS.iterdir())
    return Firewalls(json.dumps({"nftables": entries}), _legacy_rules(), links)


def obstacles(
    seen: Firewalls, bridges: Sequence[str], *, uplinks: Sequence[str] = (), passages: Collection[str] = ()
) -> tuple[Obstacle, ...]:
    """What stops nodes on `bridges` from reaching what is behind `uplinks`, or their gateway's DHCP and DNS.

    `passages` are the chains of iptables that a passage of ours is in or will be in: they stop nothing. firewalld is
    asked about bridges that exist: libvirt puts each into a zone when it makes it.
    """
    uplink = uplinks[0] if uplinks else None
    opened = {("ip", "filter", "FORWARD" if chain == iptables.DOCKER_USER else chain) for chain in passages}
    found = []
    for table in read_tables(seen.ruleset):
        if not _may_matter(table.family, table.name):
            continue
        for name in [name for name in table.rules if name.startswith(_LIBVIRT_CHAINS)]:
            table.rules[name].clear()
        firewalld = (table.family, table.name) == _FIREWALLD
        concerned = [each for each in bridges if each in seen.links] if firewalld else bridges
        for name, base in table.bases.items():
            if (table.family, table.name, name) in opened or base.hook not in _PACKETS:
                continue
            stopped = [
                each
                for each in concerned
                if not all(passes(table, name, packet) for packet in _PACKETS[base.hook](each, uplink))
            ]
            if stopped:
                found.append(_firewalld(stopped) if firewalld else _obstacle(table, name, base, stopped))
    return (*dict.fromkeys(found), *_in_legacy(seen.legacy, bridges))


def _may_matter(family: str, table: str) -> bool:
    """Whether IPv4 packets go through it, and its rules are not made for our bridges."""
    return family in ("ip", "inet") and table not in _KNOWN


def _legacy_rules() -> str:
    """Only where the old tables are in use: the command would bring them into being."""
    try:
        names = _LEGACY_TABLES.read_text(encoding="ascii").split()
    except OSError:
        return ""
    if "filter" not in names or shutil.which(_LEGACY) is None or shutil.which("iptables") is None:
        return ""
    return iptables.list_rules(_LEGACY) if iptables.variant(output(["iptables", "--version"])) == "nf_tables" else ""


def _forwarded(bridge: str, uplink: str | None) -> list[Packet]:
    away: dict[str, str | int] = {"iifname": bridge, "state": "new"}
    back: dict[str, str | int] = {"oifname": bridge, "state": "established"}
    return [away | {"oifname": uplink}, back | {"iifname": uplink}] if uplink else [away, back]


def _asked(bridge: str, uplink: str | None) -> list[Packet]:
    return [{"iifname": bridge, "state": "new", "l4proto": "udp", "dport": port} for port in (53, 67)]


_PACKETS = {"forward": _forwarded, "input": _asked}


def _obstacle(table: Table, chain: str, base: Base, bridges: Sequence[str]) -> Obstacle:
    where = f"{table.family} {table.name} {chain}"
    ways = ("iifname",) if base.hook == "input" else ("iifname", "oifname")
    names = f'"{bridges[0]}"' if len(bridges) == 1 else "{ " + ", ".join(f'"{each}"' for each in bridges) + " }"
    commands = [f"nft 'insert rule {where} {way} {names} accept'" for way in ways]
    return Obstacle(f"the nftables chain {where}", _why(base.hook, bridges), "\n".join(commands))


def _firewalld(bridges: Sequence[str]) -> Obstacle:
    return Obstacle(
        "firewalld",
        f"{', '.join(bridges)} is in none of libvirt's zones, and its zone rejects what nodes send",
        "\n".join(
            f"firewall-cmd --zone=libvirt --change-interface={bridge}  # of a routed network: --zone=libvirt-routed"
            for bridge in bridges
        ),
    )


def _in_legacy(text: str, bridges: Sequence[str]) -> Iterator[Obstacle]:
    """The kernel goes through the tables of both iptables; our passages are in those of the command `iptables`."""
    chains = iptables.read_rules(text)
    for name in iptables.passage_chains(chains):
        have = {rule[:2] for rule in chains[name].rules if rule[2:] in (("-j", "ACCEPT"), iptables.MARK)}
        lacking = {
            bridge: ways
            for bridge in bridges
            if (ways := [way for way in iptables.ways(name) if (way, bridge) not in have])
        }
        if lacking:
            yield Obstacle(
                f"the chain {name} of {_LEGACY}",
                _why("input" if name == "INPUT" else "forward", list(lacking)),
                "\n".join(f"{_LEGACY} -I {name} {way} {b} -j ACCEPT" for b, ways in lacking.items() for way in ways),
            )


def _why(hook: str, bridges: Sequence[str]) -> str:
    names = ", ".join(bridges)
    if hook == "input":
        return f"it drops what nodes on {names} ask of their gateway, DHCP and DNS among it"
    return f"it drops what nodes on {names} send through this host, or what comes back"
