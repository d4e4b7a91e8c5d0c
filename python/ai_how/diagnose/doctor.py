"""The doctor: a question, what the host says, what the checks find in it, and what that comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ai_how.diagnose.ask import gather
from ai_how.diagnose.capture import Capture
from ai_how.diagnose.causes import Diagnosis, conclude
from ai_how.diagnose.checks import run
from ai_how.diagnose.question import Question, read_question
from ai_how.diagnose.read import read_capture
from ai_how.host.libvirt import DEFAULT_URI


def examine(uri: str = DEFAULT_URI, words: Sequence[str] = ()) -> Diagnosis:
    """What is wrong with this host, or with what `words` ask about. Nothing is changed. Raises UsageError."""
    question = read_question(words)
    return judge(gather(uri, question), question)


def judge(capture: Capture, question: Question) -> Diagnosis:
    """The verdict on what a host said, here or elsewhere."""
    return conclude(question, run(replace(read_capture(capture), asked=question.name), question))
