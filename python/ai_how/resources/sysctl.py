"""A kernel setting that clusters need, such as net.ipv4.ip_forward (sysctl(8))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ai_how.resources.base import Impact, Kind, Plain, managed

#: Whether the host passes on packets between its links (ip-sysctl.rst); libvirt sets it, too, and never back.
FORWARDING = "net.ipv4.ip_forward"


@dataclass(frozen=True, slots=True)
class Sysctl(Plain):
    """The setting `name`, with dots, at `value`. What it was before is remembered by its provider, and restored.

    `lasting` is False where the hook would not set it again, because somebody took away what it reads.
    """

    kind: ClassVar[Kind] = Kind.SYSCTL

    name: str
    value: str = managed(Impact.LIVE)
    lasting: bool = managed(Impact.LIVE, default=True)

    def __str__(self) -> str:
        return f"setting {self.name} = {self.value}"

    @property
    def key(self) -> str:
        return self.name
