"""What one check says about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Answer(StrEnum):
    """The verdict of a check. `unknown` is "could not look": never a pass."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is a stable identifier, `subject` the thing looked at, `evidence` what was seen, `hint` the remedy."""

    check: str
    subject: str
    answer: Answer
    summary: str
    evidence: tuple[str, ...] = ()
    hint: str = ""
