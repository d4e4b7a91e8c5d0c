"""Passages through iptables' filter table. Our rules carry a comment; no other rule is ever touched."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from ai_how.errors import HostError
from ai_how.host import iptables, memory
from ai_how.host.libvirt import Libvirt
from ai_how.resources.passage import Passage

#: What is in force, for users without root.
_MEMORY = "passage.json"
#: The same for the hook, which is a shell script: `CHAIN BRIDGE`, one a line (compile/hook.py).
_FOR_THE_HOOK = "passage.rules"

#: Steps run side by side, and both files hold all chains.
_ONE = threading.Lock()


def observe(libvirt: Libvirt, cluster: str) -> list[Passage]:
    """Our rules by chain. A bridge is in it that has each of its rules once, and is remembered, for the hook, too; with
    half of that the next run begins anew."""
    known = _recall()
    if known and memory.recall_text(_FOR_THE_HOOK) != _rules(known):
        known = dict.fromkeys(known, ())
    if not memory.is_root():
        return [Passage(chain, bridges) for chain, bridges in sorted(known.items())]
    rules = iptables.marked(iptables.read_rules(iptables.list_rules()))
    return [
        Passage(chain, tuple(sorted({*iptables.complete(chain, rules.get(chain, ()))} & {*known.get(chain, ())})))
        for chain in sorted({*rules, *known})
    ]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """None: a chain is everybody's, and ours in it are the rules with our comment."""
    return {}


def create(libvirt: Libvirt, want: Passage) -> None:
    """Accept its bridges in its chain, before all other rules, and those alone."""
    with _ONE:
        _remember({**_recall(), want.chain: want.bridges})
        _renew(want)


def change(libvirt: Libvirt, have: Passage, want: Passage) -> None:
    """Accept other bridges."""
    create(libvirt, want)


def remove(libvirt: Libvirt, have: Passage) -> None:
    """Remove our rules of this chain."""
    with _ONE:
        _renew(Passage(have.chain, ()))
        _remember({chain: bridges for chain, bridges in _recall().items() if chain != have.chain})


def _renew(want: Passage) -> None:
    """Have the rules of exactly `want`, whatever of them is there. A chain that went with its program has none."""
    chains = iptables.read_rules(iptables.list_rules())
    if want.bridges and want.chain not in chains:
        raise HostError(
            f"the chain {want.chain} of iptables is not there any more",
            why=f"{', '.join(want.bridges)} cannot be accepted in it",
            remedy="Run the same command again: it looks which chain it is now.",
        )
    if text := iptables.renewal(want.chain, iptables.marked(chains).get(want.chain, []), want.bridges):
        iptables.apply(text)


def _recall() -> dict[str, tuple[str, ...]]:
    """What is remembered; what cannot be read was written by nobody of us, and is made anew by the next `up`."""
    try:
        return {chain: tuple(map(str, bridges)) for chain, bridges in (memory.recall(_MEMORY) or {}).items()}
    except (TypeError, AttributeError):
        return {}


def _rules(known: Mapping[str, Collection[str]]) -> str:
    return "".join(f"{chain} {bridge}\n" for chain, bridges in sorted(known.items()) for bridge in bridges)


def _remember(known: Mapping[str, Collection[str]]) -> None:
    memory.keep(_MEMORY, known, beside=_FOR_THE_HOOK, text=_rules(known))
