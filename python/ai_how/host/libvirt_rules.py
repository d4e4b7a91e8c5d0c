"""libvirt's own firewall rules, where they get in the way of a live change.

For an update of a network's DHCP section libvirt takes its rules away one by one and makes them anew: for a third of a
second it rejects what it should accept, also between two machines of one bridge (docs/facts.md). With rules of ours
before its own nothing is lost; our table, which is asked first, guards the bridge as ever.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ai_how.errors import HostError
from ai_how.host import iptables, nftables

#: Where libvirt's backend for nftables decides what is forwarded (since libvirt 10.4), and the comment of our rules.
_CHAIN = ("ip", "libvirt_network", "forward")
_COMMENT = "ai-how"
_OURS = re.compile(rf'comment "{_COMMENT}" # handle (\d+)$', re.MULTILINE)


@contextmanager
def let_through(bridge: str) -> Iterator[None]:
    """What is forwarded from and to `bridge` passes libvirt's rules while the block lasts. Needs root.

    Of a kill in between a rule more is left: iptables' is seen as a passage that is not as it should be
    (providers/passage.py), that of nftables goes with the next call, or with libvirt's own.
    """
    with contextlib.ExitStack() as after:
        if iptables.is_libvirts(iptables.read_rules(iptables.list_rules())):
            after.callback(iptables.apply, iptables.passing("-D", "FORWARD", bridge))
            iptables.apply(iptables.passing("-I", "FORWARD", bridge))
        if _listed():
            after.callback(_close)
            for way in ("iifname", "oifname"):
                rule = [way, f'"{bridge}"', "accept", "comment", f'"{_COMMENT}"']
                nftables.run(["insert", "rule", *_CHAIN, *rule], changes_host=True)
        yield


def _listed() -> str:
    """libvirt's chain with the handles of its rules, empty where there is none."""
    if not nftables.is_installed():
        return ""
    try:
        return nftables.run(["-a", "list", "chain", *_CHAIN])
    except HostError:
        return ""


def _close() -> None:
    for handle in read_handles(_listed()):
        nftables.run(["delete", "rule", *_CHAIN, "handle", handle], changes_host=True)


def read_handles(text: str) -> list[str]:
    """The handles of our rules, of what `nft -a list chain` said."""
    return _OURS.findall(text)
