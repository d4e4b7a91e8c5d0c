"""What every verb understands: the global options, as one frozen value in `ctx.obj`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DEFAULT_STATE = "cluster_state.json"
DEFAULT_URI = "qemu:///system"


@dataclass(frozen=True, slots=True)
class Options:
    """`state` is the state file, `connect` libvirt's URI, `verbose` how often -v was given."""

    state: Path = Path(DEFAULT_STATE)
    connect: str = DEFAULT_URI
    json: bool = False
    verbose: int = 0

    @classmethod
    def from_environment(cls) -> Self:
        """The defaults, with AI_HOW_STATE and LIBVIRT_DEFAULT_URI honoured where they are set and not empty."""
        return cls(
            state=Path(os.environ.get("AI_HOW_STATE") or DEFAULT_STATE),
            connect=os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI,
        )
