"""What the doctor can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ai_how.errors import UsageError

QUESTIONS = "[networks | dnsmasq | network NAME | vm NAME]"


class About(StrEnum):
    """What a question is about."""

    EVERYTHING = "everything"
    NETWORKS = "networks"
    DNSMASQ = "dnsmasq"
    NETWORK = "network"
    MACHINE = "vm"


@dataclass(frozen=True, slots=True)
class Question:
    """`name` is of the network or machine that is asked about, else empty."""

    about: About = About.EVERYTHING
    name: str = ""

    def __str__(self) -> str:
        return " ".join(each for each in (self.about.value, self.name) if each)


def read_question(words: Sequence[str]) -> Question:
    """Understands the words of a command line (see QUESTIONS; none ask for everything). Raises UsageError."""
    match tuple(words):
        case ():
            return Question()
        case ("networks" | "dnsmasq" as about,):
            return Question(About(about))
        case ("network" | "vm" as about, name) if name:
            return Question(About(about), name)
        case _:
            raise UsageError(f"cannot answer {' '.join(words)!r}", remedy=f"ask {QUESTIONS}")
