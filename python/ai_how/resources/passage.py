"""A passage through another program's firewall: where the FORWARD chain drops by policy, as Docker sets it, our bridges
are accepted there; what may pass is decided by our own table (resources/firewall.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, ResourceId, managed


@dataclass(frozen=True, slots=True)
class Passage:
    """In `chain` of iptables' filter table, what comes from and goes to `bridges` (sorted) is accepted."""

    kind: ClassVar[Kind] = Kind.PASSAGE

    chain: str
    bridges: tuple[str, ...] = managed(Impact.LIVE)

    def __str__(self) -> str:
        return f"iptables chain {self.chain} accepts {some(self.bridges)}"

    @property
    def key(self) -> str:
        return self.chain

    @property
    def up(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return ()
