"""A passage through another program's firewall: where iptables drops what nobody accepts, as with Docker and ufw, our
bridges are accepted there. What may pass is decided before, by our own table (resources/firewall.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, Plain, managed


@dataclass(frozen=True, slots=True)
class Passage(Plain):
    """In `chain` of iptables' filter table, what comes from `bridges` (sorted) is accepted, and what goes to them; in
    INPUT only the former. A host has one for each chain that drops (host/iptables.py)."""

    kind: ClassVar[Kind] = Kind.PASSAGE

    chain: str
    bridges: tuple[str, ...] = managed(Impact.LIVE)

    def __str__(self) -> str:
        return f"iptables chain {self.chain} accepts {some(self.bridges)}"

    @property
    def key(self) -> str:
        return self.chain
