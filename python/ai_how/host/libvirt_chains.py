"""What libvirt has its own firewall rules in, where somebody's flush took it along.

libvirt makes these chains once, when its first network starts, and never looks again: after `nft flush ruleset`, or a
restart of the system's nftables service, no network starts and none is updated until the daemon is started anew
(docs/facts.md). An empty chain where libvirt expects one is all that it wants.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from ai_how.errors import LibvirtError
from ai_how.host import iptables, nftables
from ai_how.host.memory import is_root

#: Of libvirt's backend for iptables: by table, its chains in each chain of the kernel's, in the order they are asked.
_IPTABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "filter": {
        "INPUT": ("LIBVIRT_INP",),
        "OUTPUT": ("LIBVIRT_OUT",),
        "FORWARD": ("LIBVIRT_FWX", "LIBVIRT_FWI", "LIBVIRT_FWO"),
    },
    "nat": {"POSTROUTING": ("LIBVIRT_PRT",)},
    "mangle": {"POSTROUTING": ("LIBVIRT_PRT",)},
}

#: Of its backend for nftables (since libvirt 10.4), in a table `libvirt_network` of each family.
_TABLE = "libvirt_network"
_FORWARD = ("guest_cross", "guest_input", "guest_output")
_HOOKS = {
    "forward": "type filter hook forward priority filter; policy accept;",
    "guest_nat": "type nat hook postrouting priority srcnat; policy accept;",
}


def keeping_chains(ask: Callable[[], None]) -> None:
    """Have libvirt do what changes its rules; where it has no chains to put them in, make those and ask again.

    `ask` raises LibvirtError, and may be called twice. Raises LibvirtError, HostError.
    """
    try:
        ask()
    except LibvirtError as error:
        if not is_root():
            raise
        if "LIBVIRT_" in error.why:
            made = make_chains()
        elif _TABLE in error.why:
            made = [family for family in ("ip", "ip6") if _make_table(family)]
        else:
            raise
        if not made:
            raise
        ask()


def make_chains() -> list[str]:
    """Make what is missing of the chains that the backend for iptables has; the commands for which something was."""
    return [command for command in ("iptables", "ip6tables") if _make_chains(command)]


def _make_chains(command: str) -> bool:
    if shutil.which(command) is None:
        return False
    tables = {table: iptables.read_rules(iptables.list_rules(command, table)) for table in _IPTABLES}
    text = "".join(map(missing_chains, tables, tables.values()))
    if text:
        iptables.apply(text, command)
    return bool(text)


def missing_chains(table: str, chains: iptables.Chains) -> str:
    """What `iptables-restore --noflush` reads to make what is missing in `table`; empty where nothing is."""
    lines = []
    for builtin, names in _IPTABLES[table].items():
        rules = chains.get(builtin, iptables.Chain()).rules
        lines += [f"-N {name}" for name in names if name not in chains]
        lines += [f"-I {builtin} -j {name}" for name in reversed(names) if ("-j", name) not in rules]
    return "\n".join((f"*{table}", *lines, "COMMIT", "")) if lines else ""


def _make_table(family: str) -> bool:
    there = f"table {family} {_TABLE}"
    before = nftables.list_chains()
    chains = before.partition(there + " {")[2].partition("\n}")[0]
    commands = [f"add {there}"]
    commands += [f"add chain {family} {_TABLE} {name}" for name in _FORWARD]
    commands += [f"add chain {family} {_TABLE} {name} {{ {hook} }}" for name, hook in _HOOKS.items()]
    if "chain forward {" not in chains:
        commands += [f"add rule {family} {_TABLE} forward counter jump {name}" for name in _FORWARD]
    nftables.run(["; ".join(commands)], changes_host=True)
    return nftables.list_chains() != before
