"""Times as people write them on a command line."""

from __future__ import annotations

import re

from ai_how.errors import UsageError

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Seconds of `60`, `60s`, `1.5m` or `1h`; more than none. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smh]?)", text.strip(), re.ASCII)
    length = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not length:
        raise UsageError(f"{text!r} is no length of time", remedy="Write it as 60, 60s, 5m or 1h; not 0.")
    return length
