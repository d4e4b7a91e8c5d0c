"""Where clusters are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ai_how.engine.events import Progress, silent
from ai_how.host.libvirt import Libvirt


@dataclass(frozen=True, slots=True)
class Site:
    """Where clusters are: an open libvirt, the state file, and who is told of the progress."""

    libvirt: Libvirt
    state: Path
    progress: Progress = silent
