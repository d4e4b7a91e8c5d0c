"""Waiting for what must come, on a machine that may be busy: whoever waits goes on as soon as it is there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Seconds in which what must come has come; and emulated machines, which have started and asked DHCP.
COMES_WITHIN, STARTS_WITHIN = 120.0, 300.0


def until(
    holds: Callable[[], T | None],
    what: str,
    within: float = COMES_WITHIN,
    *,
    passing: tuple[type[BaseException], ...] = (),
) -> T:
    """Wait for a condition, through errors that are `passing`; fail where it does not come. What it is then."""
    deadline = time.monotonic() + within
    while True:
        with suppress(*passing):
            if found := holds():
                return found
        assert time.monotonic() < deadline, f"it does not come within {within:g} s: {what}"
        time.sleep(0.05)


def until_ended(pid: int) -> None:
    """Wait for the end of a process."""
    until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of process {pid}")


def kill(pid: int) -> None:
    """Kill a process, and wait until it has ended: it has its sockets for a moment after it was killed."""
    os.kill(pid, signal.SIGKILL)
    until_ended(pid)


def stop(pid: int) -> None:
    """Stop a process, and wait until all of it has: a thread goes on until it has a CPU to learn of it."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    until(
        lambda: all(_state(each) == "T" for each in threads.iterdir()),
        f"all of process {pid} is stopped",
        passing=(FileNotFoundError, ProcessLookupError),  # a thread that has just ended
    )


def _state(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]
