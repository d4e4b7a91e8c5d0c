"""Clusters that somebody changed behind our back with virsh, rm and a second terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_how.engine import cluster as engine
from ai_how.engine.events import Event, StepDone
from ai_how.errors import StateError
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.vm_management.hpc_manager import HPCClusterManager

Ran = subprocess.CompletedProcess[str]

STORAGE = Path("/var/lib/libvirt/images/ai-how-vexed")
MACHINE = {"cpu_cores": 1, "memory_gb": 0.0625, "disk_gb": 1}


def virsh(*words: str) -> str:
    return subprocess.run(["virsh", "-q", *words], check=True, capture_output=True, text=True).stdout


def ai_how(*words: str) -> Ran:
    argv = [sys.executable, "-m", "ai_how", *words]
    ran = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL, env=os.environ
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    assert "bug" not in ran.stderr, ran.stderr
    return ran


def refused(code: int, *words: str) -> str:
    ran = ai_how(*words)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stderr


def done(*words: str) -> str:
    ran = ai_how(*words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def brought_up(libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`brought_up()`: the cluster `vexed` of two nodes, in `c.yaml` of the working directory; removed afterwards."""
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "blank.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    cluster: dict[str, Any] = {
        "name": "vexed",
        "base_image_path": str(image),
        "network": {"subnet": "10.47.0.0/24", "bridge": "br-vexed"},
        "controller": MACHINE,
        "compute_nodes": [MACHINE],
    }
    Path("c.yaml").write_text(yaml.safe_dump({"clusters": {"hpc": cluster}}))

    def bring_up(*words: str) -> None:
        done("up", "c.yaml", "--no-wait", *words)

    yield bring_up
    with Libvirt() as libvirt:
        engine.destroy(engine.Site(libvirt, tmp_path / "cluster_state.json"), "vexed")
    assert not STORAGE.exists()


def nothing_is_there() -> bool:
    listed = virsh("list", "--all", "--name") + virsh("net-list", "--all", "--name") + virsh("pool-list", "--all")
    return "vexed" not in listed and not STORAGE.exists()


def test_a_progress_that_raises_leaves_nothing_behind(brought_up: Callable[..., None]) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, StepDone):
            raise RuntimeError(str(event.step))

    manager = HPCClusterManager(yaml.safe_load(Path("c.yaml").read_text()), progress=fail)
    with pytest.raises(RuntimeError):
        manager.start_cluster(wait=False)
    assert nothing_is_there()
    assert not Path("cluster_state.json").exists()


def test_disks_whose_machines_are_gone_are_shown_and_removed_only_after_asking(brought_up: Callable[..., None]) -> None:
    brought_up("--no-start")
    for node in ("vexed-controller", "vexed-compute-01"):
        virsh("undefine", node)
    virsh("net-destroy", "vexed-network")
    virsh("net-undefine", "vexed-network")
    assert "vexed" in ai_how("status").stdout
    assert "needs a yes" in refused(2, "destroy", "c.yaml")
    assert (STORAGE / "vexed-controller.qcow2").exists()
    assert "vexed: removed" in done("destroy", "vexed", "--yes")
    assert nothing_is_there()


def test_destroy_names_what_is_left_of_a_cluster(brought_up: Callable[..., None]) -> None:
    brought_up("--no-start")
    for node in ("vexed-controller", "vexed-compute-01"):
        virsh("undefine", node)
    assert f"vexed: vexed-network, and the disks in {STORAGE}, whose machines are gone" in refused(
        2, "destroy", "vexed"
    )
    virsh("pool-destroy", "ai-how-vexed")
    virsh("pool-undefine", "ai-how-vexed")
    shutil.rmtree(STORAGE)
    assert "vexed: vexed-network\n" in refused(2, "destroy", "vexed")


def test_undefined_pool_is_taken_back_with_the_disks_in_it(brought_up: Callable[..., None]) -> None:
    brought_up()
    for _ in range(2):
        virsh("pool-destroy", "ai-how-vexed")
        virsh("pool-undefine", "ai-how-vexed")
        brought_up()
    assert "running" in virsh("domstate", "vexed-compute-01")
    virsh("pool-destroy", "ai-how-vexed")
    virsh("pool-undefine", "ai-how-vexed")
    done("destroy", "c.yaml", "--yes")
    assert nothing_is_there()


def test_lost_disk_of_a_running_machine_is_not_hidden_by_an_empty_one(brought_up: Callable[..., None]) -> None:
    brought_up()
    disk = STORAGE / "vexed-compute-01.qcow2"
    kept = disk.rename(disk.with_suffix(".kept"))
    assert "vexed-compute-01 runs on" in refused(3, "up", "c.yaml", "--no-wait")
    assert not disk.exists()
    kept.rename(disk)
    assert "nothing to do" in done("up", "c.yaml", "--no-wait")
    done("down", "c.yaml", "--timeout", "0")
    disk.unlink()
    again = ai_how("up", "c.yaml", "--no-start")
    assert again.returncode == 0
    assert "warning: the disk of vexed-compute-01 is gone; it begins anew with an empty one" in again.stderr


def test_lost_directory_keeps_the_cluster_from_neither_status_nor_destroy(brought_up: Callable[..., None]) -> None:
    brought_up("--no-start")
    shutil.rmtree(STORAGE)
    assert "vexed-compute-01" in ai_how("status", "c.yaml").stdout
    done("destroy", "c.yaml", "--yes")
    assert nothing_is_there()


def test_disk_of_a_snapshot_is_not_put_aside(brought_up: Callable[..., None]) -> None:
    brought_up()
    virsh("snapshot-create-as", "vexed-compute-01", "before", "--disk-only", "--no-metadata")
    said = refused(3, "up", "c.yaml", "--no-wait")
    assert "vexed-compute-01.before" in said
    virsh("blockcommit", "vexed-compute-01", "vda", "--shallow", "--active", "--pivot", "--wait")
    (STORAGE / "vexed-compute-01.before").unlink()
    virsh("pool-refresh", "ai-how-vexed")
    assert "nothing to do" in done("up", "c.yaml", "--no-wait")


def test_what_was_undefined_while_at_work_is_defined_again_or_removed(brought_up: Callable[..., None]) -> None:
    brought_up()
    virsh("net-undefine", "vexed-network")
    brought_up()
    assert "vexed-network" in virsh("net-list", "--persistent", "--autostart", "--name")
    virsh("undefine", "vexed-compute-01")
    virsh("net-undefine", "vexed-network")
    done("destroy", "c.yaml", "--yes")
    assert nothing_is_there()


def test_renamed_machine_is_named_and_left_alone(brought_up: Callable[..., None]) -> None:
    brought_up("--no-start")
    virsh("domrename", "vexed-compute-01", "mine")
    said = refused(3, "up", "c.yaml", "--no-start")
    assert "'mine'" in said
    assert "virsh domrename" in said
    virsh("domrename", "mine", "vexed-compute-01")
    assert "nothing to do" in done("up", "c.yaml", "--no-start")


def test_paused_machine_is_told_from_a_running_one(brought_up: Callable[..., None]) -> None:
    brought_up()
    virsh("suspend", "vexed-compute-01")
    shown = ai_how("status", "c.yaml", "--json")
    assert [node["state"] for node in json.loads(shown.stdout)["nodes"]] == ["running", "paused"]
    assert shown.returncode == 1
    assert "vexed-compute-01 is paused and stays so" in ai_how("up", "c.yaml", "--no-wait").stderr
    virsh("resume", "vexed-compute-01")
    assert ai_how("status", "c.yaml").returncode == 0


def test_saved_machine_goes_on_with_the_lease_that_it_had(brought_up: Callable[..., None]) -> None:
    leases = Path("/var/lib/libvirt/dnsmasq/br-vexed.status")
    brought_up()
    nodes = json.loads(ai_how("status", "c.yaml", "--json").stdout)["nodes"]
    held = [
        {"ip-address": node["ip"], "mac-address": node["mac"], "expiry-time": int(time.time()) + 3600} for node in nodes
    ]
    leases.write_text(json.dumps(held))
    done("up", "c.yaml", "--timeout", "60", "--no-test")  # there is no guest that would answer
    virsh("managedsave", "vexed-compute-01")
    done("up", "c.yaml", "--timeout", "60", "--no-test")  # there is no guest that would answer


def test_reader_of_the_progress_that_goes_away_stops_nothing(brought_up: Callable[..., None]) -> None:
    """The pipe's reader takes one line of at least six."""
    line = f"{sys.executable} -m ai_how up c.yaml --no-start 2>&1 >/dev/null | head -1; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", line], check=False, capture_output=True, timeout=300).returncode == 0
    assert "nothing to do" in done("up", "c.yaml", "--no-start")


def test_closed_terminal_undoes_what_was_made(brought_up: Callable[..., None]) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-m", "ai_how", "up", "c.yaml"])  # noqa: S606
    deadline = time.monotonic() + 120
    while not STORAGE.exists():
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.02)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert nothing_is_there()
    assert not Path("cluster_state.json").exists()


def test_cluster_in_use_is_refused_whichever_state_file_is_named(brought_up: Callable[..., None]) -> None:
    brought_up("--no-start")
    with held("qemu:///system", "vexed"):
        for words in (("up", "c.yaml"), ("down", "vexed"), ("destroy", "vexed", "--yes")):
            assert "cluster vexed is in use" in refused(3, *words, "--state", "other.json")
        with pytest.raises(StateError), held("qemu:///system", "vexed"):
            pass
        with held("qemu:///system", "another"):
            pass
    assert "nothing to do" in done("up", "c.yaml", "--no-start")
