"""What the tests of whole clusters share: the command line, configurations, images, and words said inside guests.

The tests run in the lab (tests/lab/conftest.py); what `ai-how` does here, it does to the lab's libvirt.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.host_view import define_everything_once, left, without_pid_files
from tests.lab.loaded import Loaded
from tests.waiting import until

from ai_how.engine import cluster as engine
from ai_how.host import agent
from ai_how.host.libvirt import Libvirt
from ai_how.images import build_micro_image

Ran = subprocess.CompletedProcess[str]

#: Seconds in which one command has ended, on a busy machine; the longest waits for the leases of emulated machines.
COMMAND_DEADLINE = 600.0
AGENT_DEADLINE = 120.0


def answers(in_guest: Callable[..., Ran], node: str, target: str) -> bool:
    """Whether a ping from inside the guest is answered."""
    return in_guest(node, "ping", "-c", "1", "-w", "2", target).returncode == 0


def _virsh(*words: str) -> str:
    return subprocess.run(["virsh", "-q", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def virsh(libvirt_uri: str) -> Callable[..., str]:
    """What `virsh WORDS…` prints; it must succeed."""
    return _virsh


@pytest.fixture(scope="session")
def machine_room(libvirt_uri: str) -> None:
    """libvirt keeps directories of its own after the first network, pool and machine: they are made by others here,
    so that a comparison of before and after sees what ai-how leaves."""
    define_everything_once()


@pytest.fixture(scope="session")
def micro_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro guest, from its cache."""
    return build_micro_image(tmp_path_factory.mktemp("image") / "micro.qcow2").path


@pytest.fixture(scope="session")
def blank_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with nothing on it: its machine starts at once and never boots."""
    return make_image(tmp_path_factory.mktemp("blank") / "blank.qcow2")


def make_image(path: Path, size: str = "1M", form: str = "qcow2") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), size], check=True)
    return path


@pytest.fixture(autouse=True)
def nothing_stays(machine_room: None) -> Iterator[None]:
    """After a test that failed half-way: remove its clusters, so that the next test starts from a clean host."""
    with Libvirt() as libvirt:
        before = set(engine.clusters(libvirt))
    yield
    with Libvirt() as libvirt:
        for name in set(engine.clusters(libvirt)) - before:
            engine.destroy(engine.Site(libvirt, Path("/run/leftovers.json")), name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is: the configuration and the state file are here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """What starts `ai-how` without loading it first."""
    server = Loaded(tmp_path_factory.mktemp("loaded"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def ai_how(loaded: Loaded) -> Callable[..., Ran]:
    """`ai-how WORDS…` as its own process. Whatever happens, it never shows a traceback or calls itself broken."""

    def call(*words: object, **environment: str) -> Ran:
        # The packets at the end of each `up` are tried once, for all (test_prove.py).
        environment = {**os.environ, "AI_HOW_TEST": "0", **environment}
        ran = loaded.run([*map(str, words)], environment=environment, timeout=COMMAND_DEADLINE)
        assert "Traceback" not in ran.stdout + ran.stderr, ran.stderr
        assert "this is a bug" not in ran.stderr, ran.stderr
        return ran

    return call


@pytest.fixture(scope="session")
def configuration(blank_image: Path) -> Callable[..., dict[str, Any]]:
    """A small cluster as data: `configuration(nodes=2, network={…}, name=…, base_image_path=…)`."""

    def make(*, nodes: int = 2, network: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        machine = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}
        name = fields.get("name", "tried")
        cluster = {
            "name": name,
            "base_image_path": str(blank_image),
            "network": {"subnet": "10.44.0.0/24", "bridge": f"br-{name}"[:15]} | (network or {}),
            "controller": machine,
            "compute_nodes": [dict(machine) for _ in range(nodes - 1)],
        }
        return {"clusters": {"hpc": cluster | fields}}

    return make


@pytest.fixture
def write(folder: Path, configuration: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """The same written to `cluster.yaml` (or `file`) in the user's folder; its path."""

    def to_file(file: str = "cluster.yaml", **fields: Any) -> Path:
        path = folder / file
        path.write_text(yaml.safe_dump(configuration(**fields), sort_keys=False))
        return path

    return to_file


@pytest.fixture(scope="session")
def in_guest(libvirt_uri: str) -> Callable[..., Ran]:
    """Run a command in a guest by its agent: `in_guest(node, "ping", "-c1", …)`; waits until the agent answers."""

    def call(node: str, *argv: str) -> Ran:
        with Libvirt() as libvirt:
            until(lambda: agent.answers(libvirt, node), f"the agent of {node}", AGENT_DEADLINE)
            ran = agent.run(libvirt, node, argv, AGENT_DEADLINE)
        return subprocess.CompletedProcess(argv, ran.code, ran.stdout, ran.stderr)

    return call


@pytest.fixture(scope="session")
def settled(in_guest: Callable[..., Ran]) -> Callable[[str], None]:
    """`settled(node)`: the guest has done what DHCP said when its link was last there, which is a moment after the
    server has written the lease down."""

    def wait(node: str) -> None:
        asked = '[ -s /etc/resolv.conf ] && [ "$(cat /run/asked)" = "$(cat /sys/class/net/eth0/carrier_changes)" ]'
        script = f"until {asked} && ip route | grep -q ^default; do sleep 0.2; done"
        ran = in_guest(node, "/bin/sh", "-c", script)
        assert ran.returncode == 0, ran.stderr

    return wait


@pytest.fixture(scope="session")
def stop_asking(in_guest: Callable[..., Ran], settled: Callable[[str], None]) -> Callable[[str], None]:
    """`stop_asking(node)`: from now on the guest asks DHCP nothing any more, and keeps what it has."""

    def stop(node: str) -> None:
        settled(node)  # one that has nothing yet would stay without an address
        ran = in_guest(node, "/bin/sh", "-c", "kill -STOP $(pidof udhcpc)")
        assert ran.returncode == 0, ran.stderr

    return stop


@pytest.fixture
def refused(
    ai_how: Callable[..., Ran],
    folder: Path,
    look_at_host: Callable[[], dict[str, list[str]]],
) -> Callable[..., str]:
    """`refused(3, "up", path)`: the command ends with this exit code and changes nothing, neither on the host nor in
    the user's folder; what it said on stderr."""

    # What moves by itself where a cluster runs: the clocks of bridges, a carrier that is noticed a moment later.
    moving = re.compile(r"\w+_timer +[\d.]+|NO-CARRIER,|,LOWER_UP| state \w+| linkdown")
    own = re.compile("fe80::|ff00::|anycast")  # the kernel's own addresses of every link come a moment later, too

    def look() -> dict[str, list[str]]:
        """Without these."""
        view = without_pid_files(look_at_host())
        for part in ("links", "addresses", "routes", "routes (IPv6)"):
            view[part] = [moving.sub("", line) for line in view[part] if not own.search(line)]
        return view

    def call(code: int, *words: object, **environment: str) -> str:
        host, files = look(), sorted(folder.iterdir())
        ran = ai_how(*words, **environment)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert left(host, look) == []
        assert sorted(folder.iterdir()) == files
        return ran.stderr

    return call
