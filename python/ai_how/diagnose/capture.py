"""What a host says of itself at one moment, as it said it: text and plain data, which a file can hold.

`ask/` takes it on the host, `read.py` understands it: so a bundle that somebody sent gives the same verdict as their
host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ai_how.diagnose.facts import Part


@dataclass(frozen=True, slots=True)
class Capture:
    """`parts` is JSON data by part; `missing` says why a part could not be asked for."""

    parts: Mapping[Part, Any] = field(default_factory=dict)
    missing: Mapping[Part, str] = field(default_factory=dict)

    def get(self, part: Part) -> Any:
        """The data of a part; None where it could not be asked for, or was not."""
        return self.parts.get(part)
