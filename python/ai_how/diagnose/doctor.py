"""The doctor: a question, what the host says, what the checks find in it, and what that comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ai_how.diagnose.ask import gather
from ai_how.diagnose.capture import Capture
from ai_how.diagnose.causes import Diagnosis, conclude
from ai_how.diagnose.checks import run
from ai_how.diagnose.question import Question, read_question
from ai_how.diagnose.read import read_capture
from ai_how.host.libvirt import DEFAULT_URI

_BY_VIRSH = (
    "libvirt was asked by virsh: its Python bindings are not there "
    "(apt-get install python3-libvirt, or pip install 'ai-how[libvirt]')"
)


def examine(uri: str = DEFAULT_URI, words: Sequence[str] = (), state: Path | None = None) -> Diagnosis:
    """What is wrong with this host, or with what `words` ask about, and with the file at `state`. Nothing is changed.

    Raises UsageError.
    """
    question = read_question(words)
    return judge(gather(uri, question, state), question)


def judge(capture: Capture, question: Question) -> Diagnosis:
    """The verdict on what a host said, here or elsewhere."""
    facts = replace(read_capture(capture), asked=question.name)
    found = conclude(question, run(facts, question))
    return replace(found, notes=(_BY_VIRSH,)) if facts.libvirt.via == "virsh" else found
