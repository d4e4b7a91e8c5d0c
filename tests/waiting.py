"""Waiting for what must come, on a machine that may be busy: whoever waits goes on as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

#: Seconds in which what must come has come.
COMES_WITHIN = 120.0


def until(
    holds: Callable[[], object],
    what: str,
    within: float = COMES_WITHIN,
    *,
    passing: tuple[type[BaseException], ...] = (),
) -> None:
    """Wait for a condition, through errors that are `passing`; fail where it does not come."""
    deadline = time.monotonic() + within
    while True:
        with suppress(*passing):
            if holds():
                return
        assert time.monotonic() < deadline, f"it does not come within {within:g} s: {what}"
        time.sleep(0.05)
