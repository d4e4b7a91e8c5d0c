"""Work that is cut off: by Ctrl-C, by a polite kill, by kill -9, by a second `ai-how`, by a libvirtd that restarts."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.clusters.conftest import COMMAND_DEADLINE
from tests.lab.clusters.under_way import beginning, in_step, read_until

from ai_how.lab import Lab

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_up_that_is_interrupted_undoes_what_it_made(
    number: signal.Signals, write: Write, folder: Path, clean_host: None
) -> None:
    path = write(nodes=5)
    with beginning("up", path, "--no-wait") as up:
        read_until(up, "create domain")
        up.send_signal(number)
        said = up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 130, said
    assert "interrupted: what this run had made was undone" in said
    assert "Traceback" not in said
    assert list(folder.iterdir()) == [path]


def test_up_that_is_interrupted_keeps_what_was_there_before(
    ai_how: AiHow, virsh: Virsh, write: Write, clean_host: None
) -> None:
    assert ai_how("up", write(nodes=2), "--no-wait").returncode == 0
    before = (virsh("list", "--all"), virsh("net-dumpxml", "--inactive", "tried-network"))
    with beginning("up", path := write(nodes=5), "--no-wait") as up:
        read_until(up, "create domain")
        up.send_signal(signal.SIGINT)
        assert "undone" in up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 130
    assert (virsh("list", "--all"), virsh("net-dumpxml", "--inactive", "tried-network")) == before
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_second_interruption_ends_the_undoing_and_destroy_removes_the_rest(
    ai_how: AiHow, write: Write, clean_host: None
) -> None:
    path = write(nodes=8)
    with beginning("up", path, "--no-wait") as up:
        read_until(up, "create domain")
        up.send_signal(signal.SIGINT)
        read_until(up, "undoing")
        up.send_signal(signal.SIGINT)
        said = up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 130, said
    assert "interrupted again: not all was undone" in said
    assert "Traceback" not in said
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_interrupting_the_wait_leaves_the_machines_running(
    ai_how: AiHow, virsh: Virsh, write: Write, clean_host: None
) -> None:
    with beginning("up", path := write(nodes=1)) as up:
        read_until(up, "waiting for the leases")
        up.send_signal(signal.SIGINT)
        said = up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 130
    assert "Traceback" not in said
    assert virsh("domstate", "tried-controller") == "running"
    assert "nothing to do" in ai_how("up", path, "--no-wait").stdout
    assert ai_how("destroy", path, "--yes").returncode == 0


#: Where `up` is killed: after this line, and a random moment later (the seed makes a failure repeatable).
LINES = ["taking", "create pool", "create volume", "create domain", "waiting"]


@pytest.mark.parametrize("line", LINES)
def test_killed_up_is_completed_by_the_next_and_removed_by_destroy(
    line: str, ai_how: AiHow, virsh: Virsh, write: Write, folder: Path, clean_host: None
) -> None:
    chance = random.Random(line)
    path = write(nodes=3)

    def kill_up() -> None:
        with beginning("up", path) as up:
            read_until(up, line)
            time.sleep(chance.uniform(0, 0.1))
            up.kill()

    kill_up()
    again = ai_how("up", path, "--no-wait")
    assert again.returncode == 0, again.stderr
    if line != "waiting":
        assert "was cut off; continuing from what the host has" in again.stderr
    assert len(virsh("list", "--name").split()) == 3
    assert ai_how("destroy", path, "--yes").returncode == 0

    kill_up()
    gone = ai_how("destroy", path, "--yes")
    assert gone.returncode == 0, gone.stderr
    assert [each for each in folder.iterdir() if not each.name.endswith(".lock")] == [path]


def test_killed_destroy_is_completed_by_the_next(ai_how: AiHow, write: Write, clean_host: None) -> None:
    path = write(nodes=4)
    assert ai_how("up", path, "--no-wait").returncode == 0
    with beginning("destroy", path, "--yes") as destroy:
        read_until(destroy, "remove domain")
        destroy.kill()
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_deleted_state_file_loses_nothing(ai_how: AiHow, write: Write, folder: Path, clean_host: None) -> None:
    path, state = write(), folder / "cluster_state.json"
    assert ai_how("up", path, "--no-wait").returncode == 0
    state.unlink()
    assert "nothing to do" in ai_how("up", path, "--no-wait").stdout
    state.unlink()
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert list(folder.iterdir()) == [path]


def test_second_up_at_the_same_time_is_told_who_is_at_it(
    ai_how: AiHow, write: Write, folder: Path, clean_host: None
) -> None:
    path = write(nodes=1)
    with beginning("up", path) as first:
        read_until(first, "waiting for the leases")
        second = ai_how("up", path, "--no-wait")
        assert second.returncode == 3
        assert "is in use by another ai-how" in second.stderr
        assert f"process {first.pid} holds" in second.stderr
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=COMMAND_DEADLINE)
    assert ai_how("up", path, "--no-wait").returncode == 0
    assert ai_how("destroy", path, "--yes").returncode == 0


RESTART = """
pid=$(cat /run/libvirtd.pid); kill "$pid"
while [ -e "/proc/$pid" ]; do sleep 0.02; done
libvirtd -d
until virsh -q list > /dev/null 2>&1; do sleep 0.02; done
"""


def test_restarted_libvirtd_changes_nothing_for_a_cluster(write: Write, nested_lab: Callable[..., Lab]) -> None:
    """In a lab of its own: the libvirtd that the other tests use stays."""
    lab, path = nested_lab(), write()

    def ai_how(*words: object) -> Ran:
        return lab.run([sys.executable, "-m", "ai_how", *(str(word) for word in words)], timeout=COMMAND_DEADLINE)

    assert ai_how("up", path, "--no-wait").returncode == 0
    lab.run(["sh", "-c", RESTART], check=True, timeout=COMMAND_DEADLINE)
    again = ai_how("up", path, "--no-wait")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "tried: nothing to do")
    assert json.loads(ai_how("status", path, "--json").stdout)["network"]["state"] == "active"
    assert ai_how("destroy", path, "--yes").returncode == 0
    left = lab.run(["sh", "-c", "virsh -q list --all; virsh -q net-list --all; ls /var/lib/libvirt/images"])
    assert left.stdout.split() == []


def test_libvirtd_that_ends_in_the_middle_is_named_and_the_next_up_completes(
    write: Write, nested_lab: Callable[..., Lab]
) -> None:
    lab, path = nested_lab(), write(nodes=5)
    argv = [sys.executable, "-m", "ai_how", "up", str(path), "--no-wait"]
    with in_step(lab.enter(argv), lab.environment) as up:
        read_until(up, "create domain")
        lab.run(["sh", "-c", RESTART], check=True, timeout=COMMAND_DEADLINE)
        said = up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 3, said
    assert "error: " in said
    assert "Traceback" not in said
    again = lab.run(argv, timeout=COMMAND_DEADLINE)
    assert again.returncode == 0, again.stderr
    assert (
        lab.run([sys.executable, "-m", "ai_how", "destroy", str(path), "--yes"], timeout=COMMAND_DEADLINE).returncode
        == 0
    )
    assert lab.run(["sh", "-c", "virsh -q list --all; ls /var/lib/libvirt/images"]).stdout.split() == []
    assert list(path.parent.iterdir()) == [path]
