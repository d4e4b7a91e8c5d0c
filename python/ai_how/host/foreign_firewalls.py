"""Other firewalls of a host that would stop our nodes' packets: what the kernel has in its tables, and where they end.

A packet must pass every table, and one that drops cannot be overruled by ours. Where it is iptables' we add a passage
(resources/passage.py), everywhere else its owner must open it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how.errors import CommandFailed
from ai_how.host import iptables
from ai_how.host.iptables import LEGACY
from ai_how.host.packet_walk import Base, Packet, Table, passes, read_tables
from ai_how.host.process import output
from ai_how.resources.firewall import OUR_NAMES, TRACES
from ai_how.spec.policy import Port, Protocol

#: Tables that are no obstacle: ours, and what libvirt makes for each of its networks.
_KNOWN = frozenset({*OUR_NAMES, "libvirt_network"})
#: What libvirt has in iptables' tables for its networks, which accepts by addresses and rejects the rest.
_LIBVIRT_CHAINS = "LIBVIRT_"
_FIREWALLD = ("inet", "firewalld")

#: What every node asks of its gateway: names and its address.
_ALWAYS = (Port(Protocol.UDP, 53), Port(Protocol.UDP, 67))

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
    other one, else empty; `links` are the names of its links; `unread` the tables (family, name) that nft could not
    say."""

    ruleset: str
    legacy: str = ""
    links: frozenset[str] = frozenset()
    unread: tuple[tuple[str, str], ...] = ()


def look() -> Firewalls:
    """Ask the kernel for all tables but those that are no obstacle. Needs root. Raises CommandFailed."""
    entries: list[Any] = []
    unread = []
    # Not as JSON: nft 1.0.6 spoils it, or breaks, where a table has flags; so it may with such a table itself.
    for line in output(["nft", "list", "tables"]).splitlines():
        match line.split():
            case ["table", family, name] if _may_matter(family, name):
                try:
                    entries += json.loads(output(["nft", "-j", "list", "table", family, name]))["nftables"]
                except (CommandFailed, ValueError):
                    unread.append((family, name))
    links = frozenset(each.name for each in _LINKS.iterdir())
    return Firewalls(json.dumps({"nftables": entries}), _legacy_rules(), links, tuple(unread))


def obstacles(
    seen: Firewalls,
    bridges: Sequence[str],
    *,
    uplinks: Sequence[str] = (),
    passages: Collection[str] = (),
    ports: Mapping[str, Collection[Port]] | None = None,
) -> tuple[Obstacle, ...]:
    """What stops nodes on `bridges` from reaching what is behind `uplinks`, or their gateway's DHCP and DNS, or what
    other `ports` of it they may use.

    `passages` are the chains of iptables that a passage of ours is in or will be in: they stop nothing. firewalld is
    asked about bridges that exist: libvirt puts each into a zone when it makes it.
    """
    opened = {("ip", "filter", "FORWARD" if chain == iptables.DOCKER_USER else chain) for chain in passages}
    uplink, allowed = uplinks[0] if uplinks else None, ports or {}
    found: list[Obstacle] = []
    for table in read_tables(seen.ruleset):
        if not _may_matter(table.family, table.name):
            continue
        for name in [name for name in table.rules if name.startswith(_LIBVIRT_CHAINS)]:
            table.rules[name].clear()
        chains = {name: base for name, base in table.bases.items() if (table.family, table.name, name) not in opened}
        if (table.family, table.name) == _FIREWALLD:
            present = [each for each in bridges if each in seen.links]
            found += _in_firewalld(table, chains, present, uplink, allowed)
            continue
        for name, base in chains.items():
            stopped = [b for b in bridges if _stopped(table, name, _packets(base, b, uplink, allowed.get(b, ())))]
            if stopped:
                found.append(_obstacle(table, name, base, stopped))
    unread = (_unread(*each) for each in seen.unread)
    return (*found, *_in_legacy(seen.legacy, bridges), *unread)


def _unread(family: str, table: str) -> Obstacle:
    where = f"{family} {table}"
    why = "nft cannot say it as JSON, so whether it stops nodes is not known"
    return Obstacle(f"the nftables table {where}", why, f"nft list table {where}")


def _may_matter(family: str, table: str) -> bool:
    """Whether IPv4 packets go through it, and its rules are not made for our bridges."""
    return family in ("ip", "inet") and table not in _KNOWN and not table.startswith(TRACES)


def _legacy_rules() -> str:
    if "filter" not in iptables.legacy_tables() or shutil.which(LEGACY) is None or shutil.which("iptables") is None:
        return ""
    return iptables.list_rules(LEGACY) if iptables.variant(output(["iptables", "--version"])) == "nf_tables" else ""


def _stopped(table: Table, chain: str, packets: Iterable[Packet]) -> list[Packet]:
    """Those of `packets` that do not come through."""
    return [each for each in packets if not passes(table, chain, each)]


def _packets(base: Base, bridge: str, uplink: str | None, ports: Collection[Port] = ()) -> list[Packet]:
    """What must come through a chain at this hook."""
    match base.hook:
        case "forward":
            away: dict[str, str | int] = {"iifname": bridge, "state": "new"}
            back: dict[str, str | int] = {"oifname": bridge, "state": "established"}
            return [away | {"oifname": uplink}, back | {"iifname": uplink}] if uplink else [away, back]
        case "input":
            return [_to_gateway(bridge, each) for each in (*_ALWAYS, *ports)]
        case _:
            return []


def _to_gateway(bridge: str, port: Port) -> Packet:
    return {"iifname": bridge, "state": "new", "l4proto": port.protocol.value, "dport": port.number}


def _obstacle(table: Table, chain: str, base: Base, bridges: Sequence[str]) -> Obstacle:
    where = f"{table.family} {table.name} {chain}"
    ways = ("iifname",) if base.hook == "input" else ("iifname", "oifname")
    names = f'"{bridges[0]}"' if len(bridges) == 1 else "{ " + ", ".join(f'"{each}"' for each in bridges) + " }"
    commands = [f"nft 'insert rule {where} {way} {names} accept'" for way in ways]
    return Obstacle(f"the nftables chain {where}", _why(base.hook, bridges), "\n".join(commands))


def _in_firewalld(
    table: Table,
    chains: Mapping[str, Base],
    bridges: Collection[str],
    uplink: str | None,
    ports: Mapping[str, Collection[Port]],
) -> Iterator[Obstacle]:
    """Bridges in a zone that is not libvirt's, else ports that a zone of libvirt's does not open."""
    strays = [b for b in bridges if any(_stopped(table, n, _packets(base, b, uplink)) for n, base in chains.items())]
    if strays:
        yield Obstacle(
            "firewalld",
            f"{', '.join(strays)} is in none of libvirt's zones, and its zone rejects what nodes send",
            "\n".join(
                f"firewall-cmd --zone=libvirt --change-interface={each}  # of a routed network: --zone=libvirt-routed"
                for each in strays
            ),
        )
    for bridge in (each for each in bridges if each not in strays):
        closed = [
            f"{port.number}/{port.protocol}"
            for port in ports.get(bridge, ())
            if any(_stopped(table, n, [_to_gateway(bridge, port)]) for n, b in chains.items() if b.hook == "input")
        ]
        if closed:
            where = "--policy=libvirt-to-host" if _is_routed(table, bridge) else "--zone=libvirt"
            yield Obstacle(
                "firewalld",
                f"it rejects what allow_host_ports lets nodes on {bridge} send to this host: {', '.join(closed)}",
                "\n".join(
                    f"firewall-cmd {lasting}{where} --add-port={port}"
                    for port in closed
                    for lasting in ("", "--permanent ")
                ),
            )


def _is_routed(table: Table, bridge: str) -> bool:
    """Whether firewalld has the bridge in the zone of libvirt's routed networks, where a policy decides."""
    chosen = [rule for rule in table.rules.get("filter_INPUT_ZONES", ()) if f'"{bridge}"' in json.dumps(rule)]
    return "filter_IN_libvirt-routed" in json.dumps(chosen)


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
                f"the chain {name} of {LEGACY}",
                _why("input" if name == "INPUT" else "forward", list(lacking)),
                "\n".join(f"{LEGACY} -I {name} {way} {b} -j ACCEPT" for b, ways in lacking.items() for way in ways),
            )


def _why(hook: str, bridges: Sequence[str]) -> str:
    names = ", ".join(bridges)
    if hook == "input":
        return f"it drops what nodes on {names} ask of their gateway, DHCP and DNS among it"
    return f"it drops what nodes on {names} send through this host, or what comes back"
