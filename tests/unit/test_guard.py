"""The guard of a change: what it must know, how it counts, and what cannot be guarded. With clusters it is tried in
tests/lab/clusters/test_confirm.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath

import pytest
from tests.waiting import until

from ai_how.cli.duration import seconds
from ai_how.engine import guard, guardian, pending
from ai_how.engine.guard import Order, Phase, Word, read_order
from ai_how.engine.guardian import Guardian
from ai_how.engine.state import Undone
from ai_how.errors import HostError, InUse, NotReady, UsageError
from ai_how.host import rendezvous
from ai_how.plan.irreversible import irreversible
from ai_how.plan.plan import make_plan
from ai_how.resources.pool import Pool
from ai_how.resources.seed import Seed, node_content
from ai_how.resources.volume import Volume

POOL = Pool("ai-how-lab", PurePosixPath("/images/ai-how-lab"), active=True)
DISK = Volume("ai-how-lab", "lab-controller.qcow2", 2**30, PurePosixPath("/images/base.qcow2"))
ORDER = Order(
    uri="test:///none",
    state=Path("/nowhere/state.json"),
    cluster=f"lab-{os.getpid()}",
    within=0.6,
    bridge="br-lab",
    nodes={"lab-controller": (IPv4Address("10.0.0.2"), IPv4Address("10.1.0.2"))},
    before=(POOL, DISK),
)
ALONE = replace(ORDER, nodes={})


@pytest.mark.parametrize(
    ("text", "expected"), [("60", 60), ("60s", 60), (" 5m ", 300), ("1.5m", 90), ("1h", 3600), ("0.5", 0.5)]
)
def test_times_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "5d", "s", "five", "1e9", "nan", "inf", "5m30s", "٣"])
def test_what_is_no_time_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match="Write it as 60, 60s, 5m or 1h"):
        seconds(text)


def test_an_order_arrives_as_it_was_given() -> None:
    assert read_order(json.loads(json.dumps(ORDER.to_json()))) == ORDER


def test_what_is_lost_for_good_is_named() -> None:
    seed = Seed("ai-how-lab", "lab-controller-0.iso")
    larger, other = replace(DISK, capacity=2**31), replace(DISK, backing=PurePosixPath("/images/other.qcow2"))
    assert irreversible(make_plan((POOL, DISK), ())) == ()
    assert irreversible(make_plan((POOL, DISK), (replace(POOL, active=False), DISK))) == ()
    assert irreversible(make_plan((POOL,), (POOL, DISK))) == ("removes the disk of lab-controller",)
    assert irreversible(make_plan((POOL, larger), (POOL, DISK))) == ("grows the disk of lab-controller",)
    assert irreversible(make_plan((POOL, other), (POOL, DISK))) == ("changes the disk of lab-controller",)
    assert irreversible(make_plan((), (seed,))) == (
        "removes the seed lab-controller-0.iso, of which only the name is known",
    )
    assert irreversible(make_plan((), (replace(seed, content=node_content("a", "a.b")),))) == ()


NAMES = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0005 01 41 @ai-how/guard/aa
0000000000000000: 00000003 00000000 00000000 0005 03 42 @ai-how/guard/aa
0000000000000000: 00000002 00000000 00010000 0001 01 43 /run/with space
0000000000000000: 00000002 00000000 00010000 0005 01 44 @ai-how/guard/bb
0000000000000000: 00000002 00000000 00000000 0002 01 45
0000000000000000: 00000002 00000000 00000000 0002 01 46 @ai-how/host
"""


def test_names_are_found_among_the_sockets_of_this_host() -> None:
    assert rendezvous.read_names(NAMES, "ai-how/guard/") == ["ai-how/guard/aa", "ai-how/guard/bb"]


def test_a_name_is_held_by_one_and_free_when_that_one_goes() -> None:
    name = f"ai-how/test/{os.getpid()}"
    assert rendezvous.meet(name, within=1) is None
    with rendezvous.listen(name):
        assert rendezvous.names(name) == [name]
        with pytest.raises(InUse):
            rendezvous.listen(name)
        met = rendezvous.meet(name, within=1)
        assert met is not None
        with met:
            assert rendezvous.owner(met) == os.geteuid()
    assert rendezvous.meet(name, within=1) is None


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Why changes are undone; nothing else is done here. The guard's signals end with the test."""
    found: list[str] = []

    def undo(_order: Order, why: str) -> Undone:
        found.append(why)
        return Undone("now", why)

    monkeypatch.setattr(guardian, "undo", undo)
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    yield found
    for each, handler in before.items():
        signal.signal(each, handler)


def run(order: Order, *words: str, close: bool = True) -> int:
    """A guard in this process, told `words`, until it ends; the descriptor of its lifeline where that stays open."""
    read, write = os.pipe()
    for word in words:
        os.write(write, f"{word}\n".encode())
    if close:
        os.close(write)
    with rendezvous.listen(guard.name_of(order.uri, order.cluster)) as server:
        Guardian(order, server, read).run()
    os.close(read)
    return write


@contextmanager
def beside(task: Callable[..., None], *words: object) -> Iterator[None]:
    """Somebody in a thread, who has come to an end when the block has."""
    thread = threading.Thread(target=task, args=words, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def met() -> socket.socket:
    """The guard of ALONE, as soon as it is there."""
    return until(lambda: rendezvous.meet(guard.name_of(ALONE.uri, ALONE.cluster), within=60), "the guard")


def test_a_change_that_is_withdrawn_is_not_undone(undone: list[str]) -> None:
    run(ALONE, Word.WITHDRAWN)
    assert undone == []


def test_a_change_whose_maker_ends_before_it_is_complete_is_undone(undone: list[str]) -> None:
    run(ALONE)
    assert undone == ["up ended before the change was complete"]


def test_time_counts_from_the_end_of_the_change_whatever_the_wall_clock_says(
    undone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter(range(0, 10**9, 86400))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    begin = guardian.elapsed()
    run(ALONE, Word.APPLIED)
    assert undone == ["it was not confirmed within 0.6 s"]
    assert 0.6 <= guardian.elapsed() - begin < 30


def test_nodes_that_cannot_be_asked_are_not_taken_for_silent(
    undone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_can_be_asked(*_: object) -> frozenset[IPv4Address]:
        raise HostError("nobody can be asked")

    for name in ("SILENT_FOR", "LOOK_EVERY"):
        monkeypatch.setattr(guardian, name, 0.1)
    monkeypatch.setattr(guardian, "answering", nobody_can_be_asked)
    run(ORDER, Word.APPLIED)
    assert undone == ["it was not confirmed within 0.6 s"]
    # The control: nobody answers.
    undone.clear()
    monkeypatch.setattr(guardian, "answering", lambda *_: frozenset[IPv4Address]())
    run(replace(ORDER, within=60.0), Word.APPLIED)
    assert undone == ["lab-controller stopped answering"]


def test_a_guard_that_fails_by_itself_undoes_the_change(undone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> frozenset[IPv4Address]:
        raise ValueError("no such thing")

    monkeypatch.setattr(guardian, "answering", fail)
    read, write = os.pipe()
    os.write(write, f"{Word.APPLIED}\n".encode())
    with rendezvous.listen(guard.name_of(ORDER.uri, ORDER.cluster)) as server:
        guardian.watch_over(replace(ORDER, within=60.0), server, read)
    os.close(read)
    os.close(write)
    assert undone == ["its guard failed: ValueError: no such thing"]


def test_whoever_made_a_change_is_told_that_its_guard_has_gone() -> None:
    gone = subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    gone.wait()
    with pytest.raises(HostError, match="not guarded any more: somebody ended its guard"):
        guard.Guard(gone).tell(Word.APPLIED)


@pytest.mark.parametrize("number", [0, 1])
def test_a_node_may_answer_at_its_old_address_or_its_new_one(
    number: int, undone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SILENT_FOR", "LOOK_EVERY"):
        monkeypatch.setattr(guardian, name, 0.1)
    answer = frozenset({ORDER.nodes["lab-controller"][number]})
    monkeypatch.setattr(guardian, "answering", lambda *_: answer)
    run(ORDER, Word.APPLIED)
    assert undone == ["it was not confirmed within 0.6 s"]


def test_who_comes_while_the_change_is_being_made_cannot_decide(undone: list[str]) -> None:
    said: list[str] = []

    def visit() -> None:
        try:
            met().close()
            with pytest.raises(NotReady) as refused:
                pending.confirm(ALONE.uri, ALONE.cluster, Path("/nowhere"))
            said.append(str(refused.value))
            # Who has not the sense to ask first is not heard either.
            with met() as bold:
                rendezvous.hear(bold)
                rendezvous.say(bold, Word.CONFIRM)
                said.append(str(rendezvous.hear(bold)))
        finally:
            os.close(write)  # so ends the guard

    read, write = os.pipe()
    with beside(visit), rendezvous.listen(guard.name_of(ALONE.uri, ALONE.cluster)) as server:
        Guardian(ALONE, server, read).run()
    os.close(read)
    assert said == [f"the change of {ALONE.cluster} cannot be decided on yet: up is still at work on it", "None"]
    assert undone == ["up ended before the change was complete"]


@pytest.mark.parametrize("answer", [b"", b"{", b"null", b"{}", b"[]", b'{"done": "undo"}', b'{"done": ["\\u001b[2J"]}'])
def test_nonsense_from_whoever_has_a_guards_name_is_an_error_that_a_terminal_can_show(answer: bytes) -> None:
    first = {"uri": ALONE.uri, "cluster": ALONE.cluster, "phase": "waiting", "left": 9, "why": "\x1b[2Jno"}

    def pose(server: socket.socket) -> None:
        with server.accept()[0] as met:
            rendezvous.say(met, first)
            if rendezvous.hear(met) is not None:
                met.send(answer)

    with rendezvous.listen(guard.name_of(ALONE.uri, ALONE.cluster)) as server:
        with beside(pose, server), pytest.raises((HostError, NotReady)) as caught:
            pending.confirm(ALONE.uri, ALONE.cluster, Path("/nowhere"))
        with beside(pose, server):
            found = pending.pending(ALONE.uri, ALONE.cluster)
    assert str(caught.value).replace("\n", " ").isprintable()
    assert found is not None
    assert found.why == "[2Jno"


@pytest.mark.parametrize("nonsense", [b"", b"{", b"null", b"[]", b'"stay"', b"x" * 70000])
def test_nonsense_from_a_visitor_changes_nothing(
    nonsense: bytes, undone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[Phase] = []
    left = threading.Event()
    # Time passes when the visitor has left, however long that takes on a busy machine.
    monkeypatch.setattr(guardian, "elapsed", lambda: ALONE.within if left.is_set() else 0.0)

    def visit() -> None:
        try:
            with met() as visited:
                rendezvous.hear(visited)
                visited.send(nonsense)
                assert visited.recv(100) == b""
            found = pending.pending(ALONE.uri, ALONE.cluster)
            assert found is not None
            phases.append(found.phase)
        finally:
            left.set()

    with beside(visit):
        run(ALONE, Word.APPLIED)
    assert phases == [Phase.WAITING]
    assert undone == ["it was not confirmed within 0.6 s"]
