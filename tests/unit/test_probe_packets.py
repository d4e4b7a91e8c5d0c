"""What counts as an answer."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from ai_how.probe.packets import _in_time, ask


async def hear(within: float, *, busy_for: float, at_all: bool = True) -> bytes:
    """What `_in_time` has of a message that comes while it waits, and while nobody looks for `busy_for` seconds."""
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        heard = asyncio.ensure_future(_in_time(within, asyncio.get_running_loop().sock_recv(here, 100)))
        await asyncio.sleep(0.01)
        if at_all:
            there.send(b"here")
        time.sleep(busy_for)
        return await heard


def test_an_answer_that_was_there_while_a_busy_host_let_nobody_look_is_one() -> None:
    assert ask(hear(0.1, busy_for=0.3)) == b"here"


def test_an_answer_that_does_not_come_is_none() -> None:
    with pytest.raises(TimeoutError):
        ask(hear(0.1, busy_for=0.0, at_all=False))
