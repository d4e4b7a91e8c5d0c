"""Rules of iptables-legacy, which no trace shows: their counters, before a packet and after it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping

from ai_how.host.iptables import LEGACY, legacy_tables
from ai_how.host.process import output
from ai_how.probe.trace import Rule

_SAVE = f"{LEGACY}-save"
_LINE = re.compile(r"\[(\d+):\d+\] -A (\S+) (.*)|:(\S+) (\S+) \[(\d+):\d+\]")
_ENDS = ("-j DROP", "-j REJECT")

Counters = Mapping[Rule, int]


def ask() -> str:
    """`iptables-legacy-save -c`, where the old tables are in use. Raises CommandFailed."""
    return output([_SAVE, "-c"]) if legacy_tables() and shutil.which(_SAVE) is not None else ""


def read(text: str) -> Counters:
    """The packets that each rule or policy has dropped so far."""
    found: dict[Rule, int] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
            continue
        match = _LINE.match(line)
        if match is None:
            continue
        packets, chain, rule, policy_of, policy, policy_packets = match.groups()
        if policy == "DROP":
            found[Rule(LEGACY, table, policy_of)] = int(policy_packets)
        elif rule is not None and any(each in rule for each in _ENDS):
            found[Rule(LEGACY, table, chain, f"-A {chain} {rule}")] = int(packets)
    return found


def dropped(before: Counters, after: Counters) -> tuple[Rule, ...]:
    """The rules that have dropped something meanwhile."""
    return tuple(rule for rule, packets in after.items() if packets > before.get(rule, 0))
