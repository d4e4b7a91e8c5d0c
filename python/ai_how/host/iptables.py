"""The door to iptables, whichever of its two kinds the command is (iptables-nft, iptables-legacy): the filter table.

Docker, ufw and RHEL's own service have it drop what nobody accepts; what we do about that is resources/passage.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.host.process import output

#: How a rule of ours ends, as `iptables -S` prints it; no rule of others has this comment.
MARK = ("-m", "comment", "--comment", "ai-how", "-j", "ACCEPT")

#: Docker's chain for the rules of others. It is the first of FORWARD, also after Docker has been started again.
DOCKER_USER = "DOCKER-USER"

#: The command of the old kind, where the ordinary one keeps its rules in nftables; also the family of its tables.
LEGACY = "iptables-legacy"

#: The tables of either kind (iptables(8)).
TABLES = ("filter", "nat", "mangle", "raw", "security")

_COMMAND = "iptables"
_IN_USE = Path("/proc/net/ip_tables_names")
#: Seconds that another iptables may take before ours gives up.
_WAIT = ("--wait", "10")


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain in order. `policy` is empty where it is no built-in one; each rule is its words after `-A NAME`."""

    policy: str = ""
    rules: tuple[tuple[str, ...], ...] = ()

    @property
    def drops(self) -> bool:
        """Whether packets that no rule accepts end here."""
        return self.policy == "DROP" or any(_is_drop(rule) for rule in self.rules)


Chains = Mapping[str, Chain]


def list_rules(command: str = _COMMAND, table: str = "filter") -> str:
    """`iptables -S` of a table as text; empty where there is no such command. Needs root. Raises CommandFailed."""
    if shutil.which(command) is None:
        return ""
    return output([command, *_WAIT, "-t", table, "-S"])


def read_rules(text: str) -> Chains:
    """Understands `iptables -S`."""
    policies: dict[str, str] = {}
    rules: dict[str, list[tuple[str, ...]]] = {}
    for line in text.splitlines():
        match shlex.split(line):
            case ["-P", name, policy, *_]:
                policies[name] = policy
            case ["-N", name]:
                policies[name] = ""
            case ["-A", name, *words] if words:
                rules.setdefault(name, []).append(tuple(words))
    return {name: Chain(policy, tuple(rules.get(name, ()))) for name, policy in policies.items()}


def passage_chains(chains: Chains) -> tuple[str, ...]:
    """The chains in which our bridges must be accepted, because what passes them is dropped else; empty where nothing
    is. One for what is forwarded, and INPUT for what nodes ask of their gateway (DHCP and DNS)."""
    forward, incoming = chains.get("FORWARD", Chain()), chains.get("INPUT", Chain())
    found = []
    if forward.drops:
        found.append(DOCKER_USER if DOCKER_USER in chains and ("-j", DOCKER_USER) in forward.rules else "FORWARD")
    if incoming.drops:
        found.append("INPUT")
    return tuple(found)


def ways(chain: str) -> tuple[str, ...]:
    """The rules that a bridge has in `chain`: for what comes from it and, where packets leave again, goes to it."""
    return ("-i",) if chain == "INPUT" else ("-i", "-o")


def marked(chains: Chains) -> dict[str, list[tuple[str, str]]]:
    """Our rules by chain, as (`-i` or `-o`, bridge); one that is there twice is in it twice."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, chain in chains.items():
        for rule in chain.rules:
            if len(rule) == len(MARK) + 2 and rule[2:] == MARK and rule[0] in ("-i", "-o"):
                found.setdefault(name, []).append((rule[0], rule[1]))
    return found


def complete(chain: str, rules: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """The bridges that have each of their rules in `chain` exactly once, sorted."""
    counted = list(rules)
    names = {bridge for _, bridge in counted}
    return tuple(sorted(name for name in names if sorted(w for w, b in counted if b == name) == sorted(ways(chain))))


def renewal(chain: str, rules: Iterable[tuple[str, str]], bridges: Collection[str]) -> str:
    """What `iptables-restore --noflush` reads to have our rules of exactly `bridges` in `chain`, where `rules` are
    there now; empty where nothing is to be done. New ones come first, before whatever drops."""
    have = list(rules)
    stay = set(complete(chain, have)) & set(bridges)
    lines = [_line("-D", chain, way, bridge) for way, bridge in have if bridge not in stay]
    lines += [_line("-I", chain, way, bridge) for bridge in sorted(set(bridges) - stay) for way in ways(chain)]
    return "\n".join(("*filter", *lines, "COMMIT", "")) if lines else ""


def is_libvirts(chains: Chains) -> bool:
    """Whether libvirt decides here what is forwarded (its backend for iptables)."""
    return any(("-j", name) in chains.get("FORWARD", Chain()).rules for name in ("LIBVIRT_FWI", "LIBVIRT_FWO"))


def passing(action: str, chain: str, bridge: str) -> str:
    """What `iptables-restore --noflush` reads to insert (`-I`) or delete (`-D`) our rules of one bridge, once."""
    return "\n".join(("*filter", *(_line(action, chain, way, bridge) for way in ways(chain)), "COMMIT", ""))


def apply(text: str, command: str = _COMMAND) -> None:
    """Have `iptables-restore` do what `text` says: of each table all or nothing. Needs root. Raises CommandFailed."""
    restore = [f"{command}-restore", *_WAIT, "--noflush"]
    output(restore, text=text, remedy=f"Look at the rules: {command} -S", changes_host=True)


def legacy_tables() -> tuple[str, ...]:
    """The tables of the old kind that are in use. Its commands would bring the others into being."""
    try:
        return tuple(_IN_USE.read_text(encoding="ascii").split())
    except OSError:  # none is, or only root may see it
        return ()


def variant(version: str) -> str:
    """`nf_tables` or `legacy`, from `iptables --version`; empty where it says neither (before 1.8: legacy)."""
    said = re.search(r"\((nf_tables|legacy)\)", version)
    return said[1] if said else ""


def _is_drop(rule: tuple[str, ...]) -> bool:
    """Whether it drops every packet: it has no match but a comment."""
    bare = rule[4:] if rule[:3] == ("-m", "comment", "--comment") else rule
    return bare[:1] == ("-j",) and bare[1] in ("DROP", "REJECT")


def _line(action: str, chain: str, way: str, bridge: str) -> str:
    return " ".join((action, chain, way, bridge, *MARK))
