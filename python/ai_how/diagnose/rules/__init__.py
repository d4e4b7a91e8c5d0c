"""What a host's firewall rules do to networks, everybody's rules. Pure: from the rules as text (facts.Firewall).

Packets are followed one by one (host/packet_walk.py). Each passes every base chain at its hook: what one accepts
another may drop, and a drop is final.

    ways.py        networks, the chains that their packets pass, and the packets
    stopped.py     which chain drops them, whose it is, what would let them pass
    masquerade.py  what leaves with a node's own address
    libvirts.py    what libvirt's own rules lack
    ours.py        what of our tables is not as it was loaded
"""

from __future__ import annotations

from ai_how.diagnose.rules.libvirts import Lack, Missing, libvirt_rules_missing, libvirts_chains_are_whole
from ai_how.diagnose.rules.masquerade import not_masqueraded
from ai_how.diagnose.rules.ours import Change, Member, OurRule, OursChanged, ours_changed
from ai_how.diagnose.rules.stopped import (
    COMMENT,
    Stopped,
    asking_stopped,
    forwarding_stopped,
    taken_back,
    within_stopped,
)
from ai_how.diagnose.rules.ways import Way

__all__ = [
    "COMMENT",
    "Change",
    "Lack",
    "Member",
    "Missing",
    "OurRule",
    "OursChanged",
    "Stopped",
    "Way",
    "asking_stopped",
    "forwarding_stopped",
    "libvirt_rules_missing",
    "libvirts_chains_are_whole",
    "not_masqueraded",
    "ours_changed",
    "taken_back",
    "within_stopped",
]
