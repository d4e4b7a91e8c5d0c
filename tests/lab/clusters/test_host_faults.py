"""Faults of the host itself under a run: a full disk, a state file that is gone or cannot be written, a clock that
jumps, several runs at once. Each is named, nothing is left half made, and the next run completes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.lab.clusters.conftest import COMMAND_DEADLINE
from tests.lab.clusters.under_way import beginning, read_until

from ai_how.host import memory

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
Refused = Callable[..., str]

MAC = "52:54:00:12:34:56"
YEARS = 10 * 365 * 24 * 3600


@contextmanager
def file_system(place: Path, *, pages: int) -> Iterator[Callable[[], None]]:
    """A file system with room for so many files of one page, mounted at `place`; what is given fills it up."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", str(place)], check=True)

    def fill() -> None:
        with (place / "theirs").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-n", "--lazy", str(place)], check=True)


@contextmanager
def at_line(line: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """`ai-how WORDS…` as it has just said a line that begins so."""
    with beginning(*words) as process:
        read_until(process, line)
        yield process


# A full disk


def test_without_room_for_the_journal_nothing_is_begun(
    folder: Path, write: Write, refused: Refused, ai_how: AiHow
) -> None:
    path, place = write(nodes=1), folder / "small"
    with file_system(place, pages=4) as fill:
        fill()
        said = refused(3, "up", path, "--no-start", "--state", place / "state.json")
        assert "the state file " in said
        assert "cannot be written: No space left on device" in said
        assert [each.name for each in place.iterdir()] == ["theirs"]
        (place / "theirs").unlink()
        assert ai_how("up", path, "--no-start", "--state", place / "state.json").returncode == 0
        assert ai_how("destroy", path, "--yes", "--state", place / "state.json").returncode == 0
    place.rmdir()


def test_without_room_for_the_end_of_the_journal_the_cluster_is_there_and_the_next_up_ends_it(
    folder: Path, write: Write, ai_how: AiHow, clean_host: None
) -> None:
    path, place = write(nodes=2), folder / "small"
    words = (path, "--no-wait", "--state", place / "state.json")
    with file_system(place, pages=4) as fill:
        with at_line("create domain", "up", *words) as up:
            fill()
            said = up.communicate(timeout=COMMAND_DEADLINE)[1]
        assert up.returncode == 3, said
        assert "cannot be written: No space left on device" in said
        assert "Traceback" not in said
        (place / "theirs").unlink()
        again = ai_how("up", *words)
        assert (again.returncode, again.stdout.splitlines()[0]) == (0, "tried: nothing to do")
        assert json.loads((place / "state.json").read_text())["clusters"]["tried"]["run"] is None
        assert ai_how("destroy", path, "--yes", "--state", place / "state.json").returncode == 0
        assert list(place.iterdir()) == []
    place.rmdir()


def test_without_room_for_what_the_host_remembers_everything_is_undone(
    write: Write, refused: Refused, ai_how: AiHow, clean_host: None
) -> None:
    path = write(nodes=1)
    with file_system(memory.DIRECTORY, pages=3) as fill:
        fill()
        said = refused(3, "up", path, "--no-start")
        assert "No space left on device" in said
        assert f"df -h {memory.DIRECTORY}" in said
        assert [each.name for each in memory.DIRECTORY.iterdir()] == ["theirs"]
    assert ai_how("up", path, "--no-start").returncode == 0
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_what_the_host_remembers_outgrows_its_room_in_the_middle_and_everything_is_undone(
    write: Write, refused: Refused, clean_host: None
) -> None:
    """The first files have room, the rules have not."""
    path = write(nodes=1)
    with file_system(memory.DIRECTORY, pages=4):
        assert "No space left on device" in refused(3, "up", path, "--no-start")
        assert list(memory.DIRECTORY.iterdir()) == []


# The state file


def test_state_file_that_cannot_be_replaced_is_told_before_anything_is_begun(
    folder: Path, write: Write, refused: Refused, ai_how: AiHow, clean_host: None
) -> None:
    path, state = write(nodes=1), folder / "cluster_state.json"
    assert ai_how("up", path, "--no-start").returncode == 0
    before = state.read_bytes()
    for options in (["--bind", str(state)], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", "-n", *options, str(state)], check=True)
    try:
        for words in (("up", write(nodes=2), "--no-start"), ("destroy", path, "--yes")):
            said = refused(3, *words)
            assert "the state file cluster_state.json cannot be written: " in said
            assert "--state PATH" in said
    finally:
        subprocess.run(["umount", "-n", str(state)], check=True)
    assert state.read_bytes() == before
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_state_file_that_may_only_be_read_is_replaced(folder: Path, write: Write, ai_how: AiHow) -> None:
    """What may be replaced is a matter of the folder: a file is never written into."""
    path, state = write(nodes=1), folder / "cluster_state.json"
    assert ai_how("up", path, "--no-start").returncode == 0
    state.chmod(0o400)
    assert ai_how("up", write(nodes=2), "--no-start").returncode == 0
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert not state.exists()


def test_state_file_deleted_in_the_middle_stops_nothing(
    folder: Path, write: Write, ai_how: AiHow, virsh: Virsh, clean_host: None
) -> None:
    path, state = write(nodes=3), folder / "cluster_state.json"
    with at_line("create domain", "up", path, "--no-wait") as up:
        state.unlink()
        said = up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 0, said
    assert len(virsh("list", "--name").split()) == 3
    with at_line("remove domain", "destroy", path, "--yes") as destroy:
        state.unlink()
        said = destroy.communicate(timeout=COMMAND_DEADLINE)[1]
    assert destroy.returncode == 0, said
    assert list(folder.iterdir()) == [path]


def test_killed_and_its_state_file_lost_the_next_run_completes_from_what_the_host_has(
    folder: Path, write: Write, ai_how: AiHow, virsh: Virsh, clean_host: None
) -> None:
    path = write(nodes=3)
    for _ in range(2):
        with at_line("create domain", "up", path, "--no-wait") as up:
            up.kill()
        for left in folder.glob("*cluster_state.json*"):
            left.unlink()
        again = ai_how("up", path, "--no-wait")
        assert again.returncode == 0, again.stderr
        assert len(virsh("list", "--name").split()) == 3
        (folder / "cluster_state.json").unlink()
        assert ai_how("destroy", path, "--yes").returncode == 0
    assert list(folder.iterdir()) == [path]


# Several at once


def test_of_many_at_once_on_one_cluster_one_works_and_the_others_are_told(
    folder: Path, write: Write, ai_how: AiHow, virsh: Virsh, clean_host: None
) -> None:
    path = write(nodes=2)
    argv = [sys.executable, "-m", "ai_how", "up", str(path), "--no-wait"]
    many = [
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ended = [(process.communicate(timeout=COMMAND_DEADLINE), process.returncode) for process in many]
    codes = [code for _, code in ended]
    assert 0 in codes, ended
    assert set(codes) <= {0, 3}, ended
    for (_, said), code in ended:
        assert "Traceback" not in said
        assert code == 0 or "in use by another ai-how" in said
    assert len(virsh("list", "--name").split()) == 2
    assert "nothing to do" in ai_how("up", path, "--no-wait").stdout
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert list(folder.iterdir()) == [path]


def test_up_and_destroy_of_two_clusters_at_once_leave_one_as_made_and_nothing_of_the_other(
    write: Write, ai_how: AiHow, virsh: Virsh, clean_host: None
) -> None:
    """Both change the rules of the host: each must see what the other has done."""
    goes = write("goes.yaml", name="goes", nodes=2, network={"subnet": "10.45.0.0/24"})
    assert ai_how("up", goes, "--no-wait", "--state", goes.with_suffix(".json")).returncode == 0
    comes = write("comes.yaml", name="comes", nodes=2, network={"subnet": "10.46.0.0/24"})
    words = (("up", comes, "--no-wait"), ("destroy", goes, "--yes"))
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "ai_how", *map(str, each), "--state", str(each[1].with_suffix(".json"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in words
    ]
    ended = [(process.communicate(timeout=COMMAND_DEADLINE)[1], process.returncode) for process in both]
    assert [code for _, code in ended] == [0, 0], ended
    rules = subprocess.run(["nft", "list", "table", "inet", "ai_how"], check=True, capture_output=True, text=True)
    assert "br-comes" in rules.stdout
    assert "br-goes" not in rules.stdout
    state = comes.with_suffix(".json")
    assert "nothing to do" in ai_how("up", comes, "--no-wait", "--state", state).stdout
    assert ai_how("destroy", comes, "--yes", "--state", state).returncode == 0


# The clock


@pytest.mark.parametrize("years", [YEARS, -YEARS], ids=["set back", "set forward"])
def test_leases_from_before_the_clock_was_set_are_neither_taken_for_new_ones_nor_in_the_way(
    years: int, write: Write, ai_how: AiHow, micro_image: Path, clean_host: None
) -> None:
    """Nobody's clock but the kernel's can be set, and there is one for all. What a jump leaves to be seen is a lease of
    an earlier life whose end is years away, in the one direction or in the other."""
    leases = Path("/var/lib/libvirt/dnsmasq/br-tried.status")
    network = {"vm_macs": {"tried-controller": MAC}}
    path = write(nodes=1, base_image_path=str(micro_image), network=network)
    held = {"ip-address": "10.44.0.2", "mac-address": MAC, "hostname": "tried-controller"}
    leases.write_text(json.dumps([{**held, "expiry-time": int(time.time()) + years}]))
    ran = ai_how("up", path)
    assert ran.returncode == 0, ran.stderr
    [node] = json.loads(ai_how("status", path, "--json").stdout)["nodes"]
    expires = time.mktime(time.strptime(node["lease"]["expires"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert 0 < expires - time.time() <= 3600
    assert ai_how("destroy", path, "--yes").returncode == 0
