"""A change that is undone by itself unless it is confirmed, whatever happens to who made it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.host_view import left, without_pid_files
from tests.waiting import COMES_WITHIN, until

from ai_how.config.load import load_mapping
from ai_how.engine import cluster as engine
from ai_how.engine import guard, pending
from ai_how.engine.answering import answering
from ai_how.engine.guard import Phase
from ai_how.engine.guardian import SILENT_FOR
from ai_how.engine.observe import Observed, observe
from ai_how.engine.pending import Pending
from ai_how.engine.state import read_state
from ai_how.engine.traffic import verify_traffic
from ai_how.errors import AiHowError, NodesSilent, NotReady, Unconfirmed, UsageError
from ai_how.host import rendezvous
from ai_how.host.files import locked
from ai_how.host.libvirt import Libvirt
from ai_how.plan.plan import make_plan
from ai_how.vm_management.hpc_manager import HPCClusterManager

Ran = subprocess.CompletedProcess[str]

URI = "qemu:///system"
NAME = "tried"

#: A change of the network that is seen in its definition, in the rules and in the marks.
CHANGE: dict[str, Any] = {"firewall": {"expose": [{"host_port": 8080, "node": "tried-controller", "node_port": 80}]}}

#: Another cluster, where the standing one would be in the way.
PAIR: dict[str, Any] = {"name": "pair", "network": {"subnet": "10.45.0.0/24", "bridge": "br-pair"}}


def look(name: str = NAME) -> Observed:
    with Libvirt(URI) as libvirt:
        return observe(libvirt, name)


def undone_to(before: Observed) -> bool:
    """Whether everything of the cluster and of the host is as it was."""
    assert before.network is not None
    return not make_plan(before.everything, look(before.network.cluster).everything)


def waits() -> Pending | None:
    return next(iter(pending.all_pending(URI)), None)


def until_nobody_guards() -> None:
    until(lambda: waits() is None, "the end of the guard")


def phase() -> Phase | None:
    found = waits()
    return None if found is None else found.phase


def guards_pid() -> int:
    connection = rendezvous.meet(guard.name_of(URI, NAME), within=COMES_WITHIN)
    assert connection is not None
    with connection:
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def how_it_ended(folder: Path, name: str = NAME) -> str:
    undone = read_state(folder / "cluster_state.json")[name].undone
    assert undone is not None
    assert undone.trouble == ""
    return undone.why


def end_guards() -> None:
    """A guard outlives its test only where that failed; then it is told to undo what it guards."""
    if (left := waits()) is not None:
        until(lambda: phase() is not Phase.APPLYING, "the end of up")
        with contextlib.suppress(AiHowError):
            pending.undo(URI, left.cluster, Path("/run/no-state.json"))


@pytest.fixture(autouse=True)
def no_guard_stays(nothing_stays: None) -> Iterator[None]:
    yield
    end_guards()


@contextlib.contextmanager
def cluster(configured: dict[str, Any], state: Path, *, start: bool) -> Iterator[Callable[[], object]]:
    """A cluster for several tests; what is given makes it again as it was."""
    document = load_mapping(configured)
    (key,) = document.model.clusters
    name = document.model.clusters[key].name

    def gone() -> None:
        with Libvirt(URI) as libvirt:
            engine.destroy(engine.Site(libvirt, state), name)

    def there() -> None:
        with Libvirt(URI) as libvirt:
            engine.up(engine.Site(libvirt, state), document, key, start=start)

    def anew() -> None:
        gone()
        there()

    there()
    yield anew
    gone()


@pytest.fixture(scope="module")
def standing(
    machine_room: None, configuration: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Callable[[], object], Observed]]:
    """A cluster of one node, defined and not started, and what was seen of it."""
    state = tmp_path_factory.mktemp("standing") / "cluster_state.json"
    with cluster(configuration(nodes=1), state, start=False) as anew:
        yield anew, look()


@pytest.fixture
def before(standing: tuple[Callable[[], object], Observed], nothing_stays: None) -> Iterator[Observed]:
    """What was seen of the standing cluster, which the next test finds the same."""
    anew, seen = standing
    yield seen
    end_guards()
    if not undone_to(seen):
        anew()


@pytest.fixture(scope="module")
def alive(
    machine_room: None,
    configuration: Callable[..., dict[str, Any]],
    micro_image: Path,
    settled: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Any]]:
    """What a cluster with a guest was made from."""
    pair = PAIR | {"base_image_path": str(micro_image)}
    state = tmp_path_factory.mktemp("alive") / "cluster_state.json"
    with cluster(configuration(nodes=1, **pair), state, start=True):
        settled("pair-controller")
        yield pair


def test_a_change_that_is_confirmed_in_time_stays(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran]
) -> None:
    ran = ai_how("up", write(nodes=1, network=CHANGE), "--no-start", "--confirm-within", "10m")
    assert ran.returncode == 0, ran.stderr
    assert "this is undone in 600 s unless you keep it: ai-how confirm tried" in ran.stderr
    changed = look()
    assert make_plan(changed.everything, before.everything)
    process = Path(f"/proc/{guards_pid()}")
    ran = ai_how("confirm", NAME)
    assert (ran.returncode, ran.stdout) == (0, "tried: confirmed\n")
    until(lambda: not process.exists(), "the end of the guard, after which nothing can come")
    assert not make_plan(changed.everything, look().everything)
    ran = ai_how("confirm", NAME)
    assert ran.returncode == 1
    assert "no change of cluster tried waits for a confirmation" in ran.stderr
    assert "undone" not in ran.stderr


def test_a_change_that_is_not_confirmed_is_undone_and_a_late_confirm_says_so(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran], folder: Path
) -> None:
    path = write(nodes=1, network=CHANGE)
    ran = ai_how("up", path, "--no-start", "--confirm-within", "2s")
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "tried: 2 steps taken"), ran.stderr
    until_nobody_guards()
    assert undone_to(before)
    ran = ai_how("confirm", path)
    assert ran.returncode == 1
    assert re.search(
        r"no change of cluster tried waits .*: the last one was undone at 20\S+: it was not confirmed within 2 s",
        ran.stderr,
    )
    assert sorted(each.name for each in folder.iterdir()) == ["cluster.yaml", "cluster_state.json"]
    # The next change forgets it.
    assert ai_how("up", path, "--no-start").returncode == 0
    assert read_state(folder / "cluster_state.json")[NAME].undone is None


def test_it_is_undone_at_once_where_that_is_asked_for(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran], folder: Path
) -> None:
    path = write(nodes=1, network=CHANGE)
    ran = ai_how("up", path, "--no-start", "--confirm-within", "5m", "--json")
    assert json.loads(ran.stdout)["confirm_within"] == 300
    assert not undone_to(before)
    ran = ai_how("confirm", path, "--undo", "--json")
    assert ran.returncode == 0, ran.stderr
    assert undone_to(before)
    until_nobody_guards()
    undone = read_state(folder / "cluster_state.json")[NAME].undone
    assert undone is not None
    assert json.loads(ran.stdout) == {"cluster": NAME, "confirmed": False, "undone": undone.when, "why": undone.why}
    assert "ai-how confirm --undo" in undone.why
    # Without words: everything that waits on this host, of which there is nothing any more.
    for words in ((), ("--undo",)):
        ran = ai_how("confirm", *words)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "no change waits for a confirmation on this host" in ran.stderr


def test_confirm_without_a_name_keeps_what_waits_on_this_host(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran]
) -> None:
    assert ai_how("up", write(nodes=1, network=CHANGE), "--no-start", "--confirm-within", "10m").returncode == 0
    ran = ai_how("confirm", "--json")
    assert (ran.returncode, json.loads(ran.stdout)) == (0, {"cluster": NAME, "confirmed": True})
    until_nobody_guards()


def test_while_a_change_waits_others_are_refused_and_told_how_to_go_on(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran], refused: Callable[..., str]
) -> None:
    path = write(nodes=1, network=CHANGE)
    assert ai_how("up", path, "--no-start", "--confirm-within", "10m").returncode == 0
    last = refused(3, "destroy", NAME, "--yes")
    for said in (ai_how("up", path, "--no-start").stderr, ai_how("down", NAME).stderr, last):
        assert re.search(
            "cluster tried has a change that is not confirmed: it is undone in [1-6][0-9][0-9] s unless", said
        )
        assert "ai-how confirm tried\n" in said
        assert "ai-how confirm tried --undo\n" in said
    found = ai_how("status", NAME)
    assert re.search("not confirmed: it is undone in [0-9]+ s unless .*: ai-how confirm tried\n", found.stdout)
    assert 0 < json.loads(ai_how("status", NAME, "--json").stdout)["undone_in"] <= 600
    # Others on this host, too, may know, but not decide.
    program = (
        "import os; import ai_how.cli.confirm, ai_how.engine.pending; from ai_how.cli import app, main; "
        "os.chdir('/'); os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "raise SystemExit(main.run(['confirm', 'tried']))"
    )
    stranger = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert stranger.returncode == 4, stranger.stderr
    assert "the change of tried is not yours to decide on: root made it" in stranger.stderr
    assert ai_how("confirm", NAME).returncode == 0
    until_nobody_guards()
    assert "is undone" not in ai_how("status", NAME).stdout
    assert ai_how("down", NAME).returncode == 0


def test_what_cannot_be_undone_is_refused_before_it_is_done(
    write: Callable[..., Path],
    ai_how: Callable[..., Ran],
    refused: Callable[..., str],
    configuration: Callable[..., Any],
) -> None:
    assert ai_how("up", write(nodes=2, **PAIR), "--no-start").returncode == 0
    said = refused(3, "up", write(nodes=1, **PAIR), "--no-start", "--yes", "--confirm-within", "10m")
    assert "it removes the disk of pair-compute-01" in said
    larger = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 2}
    said = refused(3, "up", write(nodes=2, controller=larger, **PAIR), "--no-start", "--confirm-within", "10m")
    assert "it grows the disk of pair-controller" in said
    assert waits() is None


def test_a_first_up_that_is_not_confirmed_leaves_no_cluster(
    write: Callable[..., Path],
    ai_how: Callable[..., Ran],
    look_at_host: Callable[[], dict[str, list[str]]],
    folder: Path,
) -> None:
    def look_around() -> dict[str, list[str]]:
        return without_pid_files(look_at_host())

    host = look_around()
    path = write(nodes=1, **PAIR)
    assert ai_how("up", path, "--no-wait", "--confirm-within", "2").returncode == 0
    assert [each.running for each in look("pair").domains] == [True]
    until_nobody_guards()
    assert look("pair").resources == ()
    assert left(host, look_around) == []
    ran = ai_how("confirm", "pair")
    assert ran.returncode == 1
    assert "was not confirmed within 2 s" in ran.stderr
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert sorted(each.name for each in folder.iterdir()) == ["cluster.yaml"]


def test_with_nothing_to_do_nothing_waits(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran]
) -> None:
    ran = ai_how("up", write(nodes=1), "--no-start", "--confirm-within", "10m", "--json")
    assert "confirm_within" not in json.loads(ran.stdout)
    assert waits() is None


def test_a_change_is_undone_though_the_terminal_is_gone(
    before: Observed, write: Callable[..., Path], folder: Path
) -> None:
    path = write(nodes=1, network=CHANGE)
    ours, theirs = pty.openpty()
    script = '"$@"; echo; echo ended; exec sleep 60'
    words = ["up", str(path), "--no-start", "--confirm-within", "15"]
    shell = subprocess.Popen(
        ["setsid", "--ctty", "sh", "-c", script, "sh", sys.executable, "-m", "ai_how", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while b"ended" not in said:
        said += os.read(ours, 4096)
    assert phase() is Phase.WAITING
    pid = guards_pid()
    os.write(ours, b"\x03")  # Ctrl-C ends the shell and what it runs
    shell.wait(COMES_WITHIN)
    assert phase() is Phase.WAITING
    os.close(ours)  # and the terminal is gone, with SIGHUP for its session
    for each in (signal.SIGHUP, signal.SIGINT):
        os.kill(pid, each)
    time.sleep(0.3)
    assert guards_pid() == pid
    assert phase() is Phase.WAITING
    assert not undone_to(before)
    until_nobody_guards()
    assert undone_to(before)
    assert how_it_ended(folder) == "it was not confirmed within 15 s"


def test_the_terminal_that_goes_under_up_has_the_change_undone(
    before: Observed, write: Callable[..., Path], folder: Path
) -> None:
    path = write(nodes=1, network=CHANGE)
    running = subprocess.Popen(
        # It waits for a lease that never comes: the disk is blank.
        [sys.executable, "-m", "ai_how", "up", str(path), "--confirm-within", "10m"],
        stderr=subprocess.PIPE,
    )
    state = folder / "cluster_state.json"
    until(lambda: (found := read_state(state).get(NAME)) is not None and found.run is None, "the change is made")
    assert [each.running for each in look().domains] == [True]
    assert phase() is Phase.APPLYING
    running.send_signal(signal.SIGHUP)
    running.communicate(timeout=COMES_WITHIN)
    assert running.returncode == 130
    until_nobody_guards()
    assert undone_to(before)
    assert how_it_ended(folder) == "up ended before the change was complete"


@pytest.mark.parametrize("after", [0.0, 0.15, 0.4])
def test_a_change_whose_up_is_killed_is_undone_at_once(
    after: float, before: Observed, write: Callable[..., Path], folder: Path
) -> None:
    path = write(nodes=2, network=CHANGE)
    running = subprocess.Popen(
        [sys.executable, "-m", "ai_how", "up", str(path), "--confirm-within", "10m"], stderr=subprocess.DEVNULL
    )
    until(lambda: phase() is Phase.APPLYING, "the guard")
    time.sleep(after)
    running.kill()
    running.wait(COMES_WITHIN)
    until_nobody_guards()
    assert undone_to(before)
    assert not (folder / ".cluster_state.json.new").exists()


def test_it_is_undone_though_libvirtd_was_restarted_the_state_file_is_gone_and_another_holds_it(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran], folder: Path
) -> None:
    state = folder / "cluster_state.json"
    assert ai_how("up", write(nodes=1, network=CHANGE), "--no-start", "--confirm-within", "5").returncode == 0
    # First of all: what follows may take a busy machine longer than the guard waits.
    with locked(state.with_name(state.name + ".lock")):
        state.unlink()
        daemon = int(Path("/run/libvirtd.pid").read_text())
        os.kill(daemon, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{daemon}").exists(), "the end of libvirtd")
        until(lambda: phase() is Phase.UNDOING, "the deadline")
        subprocess.run(["libvirtd", "--daemon"], check=True)
        time.sleep(1)
        assert phase() is Phase.UNDOING
        assert not undone_to(before)
    until_nobody_guards()
    assert undone_to(before)
    assert how_it_ended(folder) == "it was not confirmed within 5 s"


def test_where_the_state_cannot_be_written_it_is_undone_all_the_same(
    before: Observed, write: Callable[..., Path], ai_how: Callable[..., Ran], folder: Path
) -> None:
    assert ai_how("up", write(nodes=1, network=CHANGE), "--no-start", "--confirm-within", "10m").returncode == 0
    state = folder / "cluster_state.json"
    state.write_text("no longer JSON")
    os.kill(guards_pid(), signal.SIGTERM)  # as at the end of the host's day
    until_nobody_guards()
    assert undone_to(before)
    assert state.read_text() == "no longer JSON"
    state.unlink()


def test_a_program_has_the_same(configuration: Callable[..., dict[str, Any]], folder: Path) -> None:
    manager = HPCClusterManager(configuration(nodes=1, **PAIR), folder / "cluster_state.json")
    with pytest.raises(UsageError, match="cannot be confirmed within 0 s"):
        manager.start_cluster(wait=False, confirm_within=0.0)
    assert look("pair").resources == ()
    assert "create network pair-network" in map(str, manager.plan_cluster().steps)
    assert look("pair").resources == ()
    assert manager.start_cluster(wait=False, confirm_within=600.0).confirm_within == 600.0
    with pytest.raises(Unconfirmed):
        manager.start_cluster(wait=False)
    assert not manager.plan_cluster()
    manager.undo_cluster()
    assert look("pair").resources == ()
    until_nobody_guards()
    with pytest.raises(NotReady, match="the last one was undone at"):
        manager.confirm_cluster()
    manager.start_cluster(wait=False, confirm_within=600.0)
    manager.confirm_cluster()
    until_nobody_guards()
    assert look("pair").resources
    manager.destroy_cluster()


def test_a_change_after_which_a_node_stops_answering_is_undone_at_once(
    alive: dict[str, Any],
    write: Callable[..., Path],
    ai_how: Callable[..., Ran],
    virsh: Callable[..., str],
    folder: Path,
) -> None:
    before = look("pair")
    opened = {"firewall": {"expose": [{"host_port": 8081, "node": "pair-controller", "node_port": 80}]}}
    path = write(nodes=1, **alive | {"network": alive["network"] | opened})
    assert ai_how("up", path, "--confirm-within", "10m").returncode == 0
    # The control: as long as it answers the change stays, for longer than silence is borne.
    time.sleep(SILENT_FOR + 3)
    assert phase() is Phase.WAITING
    (domain,) = before.domains
    virsh("domif-setlink", domain.name, domain.mac, "down")
    until_nobody_guards()
    virsh("domif-setlink", domain.name, domain.mac, "up")
    assert how_it_ended(folder, "pair") == "pair-controller stopped answering"
    assert undone_to(before)


def test_a_change_of_subnet_that_a_guest_does_not_follow_is_undone_and_the_guest_reached_again(
    alive: dict[str, Any],
    configuration: Callable[..., dict[str, Any]],
    stop_asking: Callable[[str], None],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = look("pair")
    assert before.network is not None
    (node,) = before.network.reservations
    stop_asking("pair-controller")
    assert answering(before.network.bridge, [node.ip], COMES_WITHIN) == {node.ip}
    moved = alive | {"network": alive["network"] | {"subnet": "10.46.0.0/24"}}
    manager = HPCClusterManager(configuration(nodes=1, **moved), folder / "cluster_state.json")
    monkeypatch.setitem(verify_traffic.__kwdefaults__ or {}, "within", 3.0)
    with pytest.raises(NodesSilent):
        manager.start_cluster(disturb_nodes=True, confirm_within=600.0)
    until_nobody_guards()
    assert undone_to(before)
    assert how_it_ended(folder, "pair") == "up ended before the change was complete"
    assert answering(before.network.bridge, [node.ip], COMES_WITHIN) == {node.ip}
