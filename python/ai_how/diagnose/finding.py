"""What one check says about one thing, and how it is repaired."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

#: A command as a list of arguments, as it is shown and as it is run: never a line for a shell.
Command = tuple[str, ...]


class Answer(StrEnum):
    """The verdict of a check. `unknown` is "could not look": never a pass."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fix:
    """How something is repaired.

    `commands` are exact. `automatic`: they are the whole repair, certain, and `undo` (in its order) takes them back, so
    that `--fix` may run them. `mend` names the cluster of ours that the engine brings back to what it was made as;
    the command is then `ai-how doctor --fix` itself. With `rules` libvirt makes its firewall rules anew before that,
    and the chains that they are in. `advice` is for what only people can decide.
    """

    commands: tuple[Command, ...] = ()
    automatic: bool = False
    undo: tuple[Command, ...] = ()
    mend: str = ""
    rules: bool = False
    advice: str = ""


NO_FIX = Fix()


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is a stable identifier (catalogue.py), `subject` the thing looked at, `evidence` what was seen.

    `network` and `machine` say whom it concerns: with neither it concerns the whole host. `kind` is that of the
    resource that drifted.
    """

    check: str
    subject: str
    answer: Answer
    summary: str
    evidence: tuple[str, ...] = ()
    fix: Fix = field(default=NO_FIX)
    network: str = ""
    machine: str = ""
    kind: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `ai-how doctor --json` shows it."""
        return {
            "check": self.check,
            "subject": self.subject,
            "answer": self.answer.value,
            "summary": self.summary,
            "evidence": list(self.evidence),
        }
