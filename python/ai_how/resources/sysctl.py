"""A kernel setting that clusters need, such as net.ipv4.ip_forward (sysctl(8))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ai_how.resources.base import Impact, Kind, ResourceId, managed


@dataclass(frozen=True, slots=True)
class Sysctl:
    """The setting `name`, with dots, at `value`. What it was before is remembered by its provider, and restored."""

    kind: ClassVar[Kind] = Kind.SYSCTL

    name: str
    value: str = managed(Impact.LIVE)

    @property
    def key(self) -> str:
        return self.name

    @property
    def up(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return ()
