"""What a lab shall have: the one thing handed from the outside (`session`) to the inside (`init`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabSpec:
    """`internet` adds the pretend internet. `libvirt_root` is a directory with another libvirt unpacked in it
    (`dpkg -x`), used instead of the system's. `cache` keeps what libvirtd learnt about QEMU from one lab to the
    next; None learns it anew each time.
    """

    internet: bool = False
    libvirt_root: Path | None = None
    cache: Path | None = None

    def to_json(self) -> str:
        root, cache = self.libvirt_root, self.cache
        return json.dumps(
            {"internet": self.internet, "libvirt_root": root and str(root), "cache": cache and str(cache)}
        )

    @classmethod
    def from_json(cls, text: str) -> LabSpec:
        data = json.loads(text)
        root, cache = data["libvirt_root"], data["cache"]
        return cls(
            internet=bool(data["internet"]),
            libvirt_root=Path(root) if root else None,
            cache=Path(cache) if cache else None,
        )
