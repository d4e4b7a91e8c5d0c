"""libvirt's network hook: what puts rules, routes and resolver entries back whenever a network starts (hooks.html)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ai_how.resources.base import Impact, Kind, Plain, managed

#: One file of our own beside those of others.
PATH = "/etc/libvirt/hooks/network.d/ai-how"


@dataclass(frozen=True, slots=True)
class Hook(Plain):
    """The file at `path` with `content`: the same on every host, it reads what to do from our memory.

    `mode` is octal, as ls(1) and chmod(1) have it; libvirt passes over what is not executable. `remembered` is False
    where the note was lost of what we wrote, and of which directories we made for it.
    """

    kind: ClassVar[Kind] = Kind.HOOK

    content: str = managed(Impact.LIVE)
    mode: str = managed(Impact.LIVE)
    path: str = PATH
    remembered: bool = managed(Impact.LIVE, default=True)

    def __str__(self) -> str:
        return f"libvirt hook {self.path}"

    @property
    def key(self) -> str:
        return self.path
