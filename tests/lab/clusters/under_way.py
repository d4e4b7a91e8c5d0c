"""Commands under way, stopped in their course after any line that they say."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest


@contextmanager
def beginning(*words: object) -> Iterator[subprocess.Popen[str]]:
    """`ai-how WORDS…` under way, in a process group of its own as on a terminal."""
    with in_step([sys.executable, "-m", "ai_how", *(str(word) for word in words)]) as process:
        yield process


@contextmanager
def in_step(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command under way. It is never more than a line ahead of what is read of its stderr: what is done to it after
    a line is done then, however late the machine comes to it."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)  # a page for each line (pipe(2)), and room for one page
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1)
    with subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        process_group=0,
    ) as process:
        os.close(writing)
        process.stderr = os.fdopen(reading)
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], beginning_of_line: str) -> str:
    """What it says until a line begins so; fail where none does."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if line.strip().startswith(beginning_of_line):
            return read
    pytest.fail(f"it never came to {beginning_of_line!r}: {read}")
