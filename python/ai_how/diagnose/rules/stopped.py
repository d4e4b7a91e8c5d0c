"""What stops the packets of networks: which chain, whose it is, and what would let them pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ai_how.diagnose.facts import Firewall
from ai_how.diagnose.finding import Command
from ai_how.diagnose.rules.ways import (
    KINDS,
    LIBVIRT_CHAINS,
    LIBVIRT_TABLE,
    Chain,
    Way,
    entries_of,
    filter_chains,
    packets_of,
)
from ai_how.host import iptables
from ai_how.host.packet_walk import SOURCE_NAT, TARGET_NAT, End, Packet, Table, Verdict, decide, words

#: The comment of rules that our commands put into tables of others, by which they are found again (`taken_back`).
COMMENT = "ai-how doctor"


#: The hooks at which nothing is opened: before and after routing, and where the host sends what is its own.
_SHOWN = ("prerouting", "postrouting", "output")
#: Those that packets of each way pass.
_FORWARDED = ("prerouting", "forward", "postrouting")
_PASSED = {
    **dict.fromkeys(("out", "back", "within"), _FORWARDED),
    "asking": ("prerouting", "input"),
    "answering": ("output", "postrouting"),
}


@dataclass(frozen=True, slots=True)
class Stopped:
    """One chain that drops what a network sends.

    `way` is `out` (to the uplink), `back` (its answers), `within` (between ports of the bridge), `asking` (of its
    gateway) or `answering` (what that answers). `owner` says whose chain it is, `where` which (family, table, chain),
    `why` which rule or policy decides. `protocols` are those that are dropped, of tcp, udp and icmp, or of DNS and
    DHCP: where it is not all of them, somebody has chosen.

    `open` are the commands that let it pass, `undo` those that take exactly that back. A rule in a table of nftables is
    deleted by its handle, which nobody knows before: there `undo` is empty, and `taken_back` tells it afterwards.
    Before and after routing both are empty, as what somebody does there has a purpose that an accept would defeat
    (addresses are not yet, or no longer, those of nodes), and so it is of what the host itself sends; `look` shows the
    chain.
    """

    network: str
    way: str
    owner: str
    where: str
    why: str
    protocols: tuple[str, ...]
    open: tuple[Command, ...] = ()
    undo: tuple[Command, ...] = ()
    look: Command = ()

    @property
    def whole(self) -> bool:
        """Whether nothing passes."""
        return len(self.protocols) == len(KINDS)


def forwarding_stopped(firewall: Firewall, ways: Iterable[Way], uplink: str) -> list[Stopped]:
    """Chains that drop what nodes send to the link `uplink`, or to the only one that they may use, or what comes back.
    Nothing where there is no uplink."""
    chains = filter_chains(firewall)
    found: list[Stopped] = []
    for way in ways if uplink else ():
        if way.leads_out:
            found += _stopped(way, "out", chains, way.device or uplink)
            found += _stopped(way, "back", chains, way.device or uplink)
    return found


def within_stopped(firewall: Firewall, ways: Iterable[Way], calls_iptables: bool) -> list[Stopped]:
    """Chains that drop frames between two ports of a bridge, where these pass the hook `forward`, too
    (`net.bridge.bridge-nf-call-iptables` is 1)."""
    if not calls_iptables:
        return []
    chains = filter_chains(firewall)
    return [each for way in ways for each in _stopped(way, "within", chains, "")]


def asking_stopped(firewall: Firewall, ways: Iterable[Way]) -> list[Stopped]:
    """Chains that drop what nodes ask of their gateway, names and addresses (`way` is `asking`), or what it answers
    (`answering`)."""
    chains = filter_chains(firewall)
    return [
        each for way in ways for direction in ("asking", "answering") for each in _stopped(way, direction, chains, "")
    ]


def taken_back(ruleset: str) -> tuple[Command, ...]:
    """The commands that delete the rules which `open` of a Stopped has put into tables of nftables, of nft's JSON as it
    is then."""
    rules = (each["rule"] for each in entries_of(ruleset) if "rule" in each)
    return tuple(
        ("nft", "delete", "rule", rule["family"], rule["table"], rule["chain"], "handle", str(rule["handle"]))
        for rule in rules
        if rule.get("comment") == COMMENT
    )


def _stopped(way: Way, direction: str, chains: Iterable[Chain], uplink: str) -> Iterator[Stopped]:
    """Only what is certain: a rule that is not understood may be what lets these packets pass."""
    packets = packets_of(way, direction, uplink)
    for chain in (each for each in chains if each.hook in _PASSED[direction]):
        drops: dict[str, Verdict] = {}
        for kind, several in packets.items():
            seen = (_seen_by(chain, way, direction, each) for each in several)
            verdicts = (decide(chain.table, chain.name, each) for each in seen)
            dropped = [each for each in verdicts if each.end is End.DROP and each.certain]
            needed = len(several) if direction == "answering" else 1
            if len(dropped) >= needed and not _is_libvirts(chain.table, dropped[0]):
                drops[kind] = dropped[0]
        if drops:
            yield _found(way, direction, chain, drops, uplink)


def _seen_by(chain: Chain, way: Way, direction: str, packet: Packet) -> Packet:
    """What is known of it there: before routing not where it will go, and of what is masqueraded not from whom it is
    once that was done, nor of its answers for whom they are before it is undone. Of chains at the very priority nobody
    knows whether they come first."""
    unknown = set()
    masqueraded = way.guarded or way.forward == "nat"
    if chain.hook == "prerouting":
        unknown.add("oifname")
        if masqueraded and direction == "back" and chain.priority <= TARGET_NAT:
            unknown.add("daddr")
    if chain.hook == "postrouting" and masqueraded and direction == "out" and chain.priority >= SOURCE_NAT:
        unknown.add("saddr")
    return {key: value for key, value in packet.items() if key not in unknown}


def _is_libvirts(table: Table, verdict: Verdict) -> bool:
    """Whether libvirt's own rules reject it: then those that accept it are missing, which is another matter."""
    return table.name == LIBVIRT_TABLE or verdict.chain.startswith(LIBVIRT_CHAINS)


def _found(way: Way, direction: str, chain: Chain, drops: Mapping[str, Verdict], uplink: str) -> Stopped:
    verdict = next(iter(drops.values()))
    if verdict.rule is None:
        why = f"the policy of {chain.where} is drop"
    else:
        inside = f" (in {verdict.chain})" if verdict.chain != chain.name else ""
        why = f"a rule of {chain.where}{inside} drops it: {words(verdict.rule)}"
    if direction == "answering":
        why = f"answers end there: {why}"
    said = (way.network, direction, _owner(chain, verdict), chain.where, why, tuple(drops))
    if chain.hook in _SHOWN:
        return Stopped(*said, look=_look(chain))
    return Stopped(*said, *_opening(way, direction, chain, uplink))


def _look(chain: Chain) -> Command:
    if chain.command:
        return (chain.command, "-t", chain.table.name, "-S", chain.name)
    return ("nft", "list", "chain", chain.table.family, chain.table.name, chain.name)


def _owner(chain: Chain, verdict: Verdict) -> str:
    """Whose chain it is, in words."""
    table = chain.table
    if chain.is_firewalld:
        return "firewalld"
    if table.name.startswith("docker"):
        return "Docker"
    if not chain.command:
        return f"the table {table.family} {table.name}"
    if verdict.rule is not None and verdict.chain == chain.name:
        return chain.command  # a rule in a chain of the kernel's can be anybody's
    names = [verdict.chain] if verdict.rule is not None else list(table.rules)
    for start, owner in (("DOCKER", "Docker"), ("ufw", "ufw")):
        if any(name.startswith(start) for name in names):
            return owner
    return chain.command


def _opening(way: Way, direction: str, chain: Chain, uplink: str) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """The commands that let it pass, and those that take them back.

    What our table guards is let through as a whole, as a passage is: our table has decided before. Of other networks
    only what was asked for, since libvirt's own rules, which keep them apart, may come after.
    """
    if chain.is_firewalld:
        return _in_zone(way, chain.table)
    if direction == "asking" and not way.guarded:
        return _opened_to_gateway(way, chain)
    if chain.command:
        rule = _iptables_rule(way, direction, uplink)
        name = _inserted_in(chain, way, direction, uplink)
        table = () if chain.table.name == "filter" else ("-t", chain.table.name)
        return ((chain.command, *table, "-I", name, *rule),), ((chain.command, *table, "-D", name, *rule),)
    place = (chain.table.family, chain.table.name, chain.name)
    return (("nft", "insert", "rule", *place, *_nft_rule(way, direction, uplink)),), ()


def _opened_to_gateway(way: Way, chain: Chain) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """DHCP and DNS alone: the host's other ports stay as they are."""
    ports = (("udp", "53"), ("tcp", "53"), ("udp", "67"))
    if not chain.command:
        place = (chain.table.family, chain.table.name, chain.name)
        rules = (("iifname", f'"{way.bridge}"', protocol, "dport", port) for protocol, port in ports)
        said = ("accept", "comment", f'"{COMMENT}"')
        return tuple(("nft", "insert", "rule", *place, *rule, *said) for rule in rules), ()
    words = [
        (chain.name, "-i", way.bridge, "-p", protocol, "--dport", port, "-j", "ACCEPT") for protocol, port in ports
    ]
    table = () if chain.table.name == "filter" else ("-t", chain.table.name)
    insert, delete = (tuple((chain.command, *table, way, *each) for each in words) for way in ("-I", "-D"))
    return insert, delete


def _ends(way: Way, direction: str, uplink: str) -> tuple[str, str, bool]:
    """The link that it comes from and the one that it goes to (empty for any), and whether only answers shall pass."""
    if way.guarded:
        return ("", way.bridge, False) if direction == "back" else (way.bridge, "", False)
    match direction:
        case "out":
            return way.bridge, uplink, False
        case "back":
            return uplink, way.bridge, way.forward == "nat"
        case "asking":
            return way.bridge, "", False
        case _:
            return way.bridge, way.bridge, False


def _iptables_rule(way: Way, direction: str, uplink: str) -> tuple[str, ...]:
    come, go, answers = _ends(way, direction, uplink)
    links = (*(("-i", come) if come else ()), *(("-o", go) if go else ()))
    if way.guarded:
        return (*links, *iptables.MARK)
    state = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED") if answers else ()
    return (*links, *state, "-j", "ACCEPT")


def _nft_rule(way: Way, direction: str, uplink: str) -> tuple[str, ...]:
    come, go, answers = _ends(way, direction, uplink)
    links = (*(("iifname", f'"{come}"') if come else ()), *(("oifname", f'"{go}"') if go else ()))
    state = ("ct", "state", "established,related") if answers else ()
    return (*links, *state, "accept", "comment", f'"{COMMENT}"')


def _inserted_in(chain: Chain, way: Way, direction: str, uplink: str) -> str:
    """Docker's chain for the rules of others where an accept in it is enough, else the chain itself."""
    user, table = iptables.DOCKER_USER, chain.table
    if chain.name != "FORWARD" or user not in table.rules:
        return chain.name
    rules = {**table.rules, user: [[{"accept": None}], *table.rules[user]]}
    opened = replace(table, rules=rules)
    packets = [each for several in packets_of(way, direction, uplink).values() for each in several]
    enough = all(decide(opened, chain.name, each).end is not End.DROP for each in packets)
    return user if enough else chain.name


def _in_zone(way: Way, table: Table) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """firewalld's word for it: the bridge in libvirt's zone. A rule in firewalld's table is gone when it reloads."""
    zone = "libvirt-routed" if way.forward == "route" else "libvirt"
    place = f'"{way.bridge}"'
    chosen = (rule for rule in table.rules.get("filter_INPUT_ZONES", ()) if place in json.dumps(rule))
    targets = [value["target"] for rule in chosen for each in rule for kind, value in each.items() if kind == "goto"]
    command: Command = ("firewall-cmd", f"--zone={zone}", f"--change-interface={way.bridge}")
    if not targets:
        return (command,), (("firewall-cmd", f"--zone={zone}", f"--remove-interface={way.bridge}"),)
    before = targets[0].removeprefix("filter_IN_")
    return (command,), (("firewall-cmd", f"--zone={before}", f"--change-interface={way.bridge}"),)
