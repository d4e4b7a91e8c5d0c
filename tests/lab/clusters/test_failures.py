"""What goes wrong on a host: each failure names the thing, the cause and the remedy, and leaves nothing behind.

Machines here have a blank disk: they start, and never boot. Mistakes in the configuration itself are in
tests/unit/test_config_problems.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.clusters.conftest import COMMAND_DEADLINE
from tests.waiting import until

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
Refused = Callable[..., str]

STORAGE = Path("/var/lib/libvirt/images")


def shell(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


# What others have on the host


@contextmanager
def somebodys(virsh: Virsh, folder: Path, kind: str, text: str) -> Iterator[None]:
    """Something that another program defined, for the length of a `with` block."""
    verbs = {
        "network": ("net-define", "net-undefine"),
        "pool": ("pool-define", "pool-undefine"),
        "domain": ("define", "undefine"),
    }
    path = folder / "somebodys.xml"
    path.write_text(text)
    name = text.partition("<name>")[2].partition("</name>")[0]
    define, undefine = verbs[kind]
    virsh(define, str(path))
    path.unlink()
    try:
        yield
        assert name in virsh({"network": "net-list", "pool": "pool-list", "domain": "list"}[kind], "--all", "--name")
    finally:
        virsh(undefine, name)


def network_xml(name: str = "somebodys", bridge: str = "br-somebodys", address: str = "10.99.0.1") -> str:
    return (
        f"<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/>"
        f"<ip address='{address}' netmask='255.255.255.0'/></network>"
    )


def test_subnet_of_somebodys_network_is_refused(virsh: Virsh, folder: Path, write: Write, refused: Refused) -> None:
    with somebodys(virsh, folder, "network", network_xml(address="10.44.0.129")):
        said = refused(2, "up", write(network={"subnet": "10.44.0.0/16"}))
    assert "clusters.hpc.network.subnet: " in said
    assert "10.44.0.0/24 (network somebodys)" in said or "network somebodys" in said
    assert "cluster.yaml:" in said


def test_subnet_of_another_cluster_is_refused_with_its_name(ai_how: AiHow, write: Write, refused: Refused) -> None:
    other = write("other.yaml", name="other", nodes=1)
    assert ai_how("up", other, "--no-start").returncode == 0
    said = refused(2, "up", write(network={"bridge": "br-tried"}))
    assert "network other-network of cluster other" in said
    assert ai_how("destroy", other, "--yes").returncode == 0


def test_subnet_that_the_host_routes_elsewhere_is_refused(write: Write, refused: Refused) -> None:
    shell("ip", "route", "add", "10.44.0.0/20", "via", "203.0.113.1")
    try:
        said = refused(2, "up", write())
    finally:
        shell("ip", "route", "del", "10.44.0.0/20")
    assert "10.44.0.0/20" in said
    assert "a route of this host through uplink" in said


def test_bridge_that_is_already_a_link_is_refused(write: Write, refused: Refused) -> None:
    shell("ip", "link", "add", "br-tried", "type", "bridge")
    try:
        said = refused(3, "up", write())
    finally:
        shell("ip", "link", "del", "br-tried")
    assert "bridge br-tried of network tried-network cannot be made: a link of this name exists" in said
    assert "network.bridge" in said


def test_bridge_of_somebodys_network_is_refused(virsh: Virsh, folder: Path, write: Write, refused: Refused) -> None:
    with somebodys(virsh, folder, "network", network_xml(bridge="br-tried")):
        said = refused(3, "up", write())
    assert "network somebodys uses this bridge" in said


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("network", network_xml("tried-network")),
        (
            "pool",
            "<pool type='dir'><name>ai-how-tried</name><target><path>/var/lib/libvirt/somebodys</path></target></pool>",
        ),
        (
            "domain",
            "<domain type='qemu'><name>tried-compute-01</name><memory>1024</memory><os><type>hvm</type></os></domain>",
        ),
    ],
)
def test_something_of_our_name_that_is_not_ours_is_never_touched(
    kind: str, text: str, virsh: Virsh, folder: Path, write: Write, refused: Refused, ai_how: AiHow
) -> None:
    with somebodys(virsh, folder, kind, text):
        path = write()
        said = refused(3, "up", path)
        assert "that ai-how did not make" in said
        assert "cannot be made: there is already a" in said
        assert "Give the cluster another name" in said
        gone = ai_how("destroy", path, "--yes")
        assert (gone.returncode, gone.stdout) == (0, "tried: nothing there\n")


@pytest.mark.parametrize("file", ["letter.txt", "tried-controller.qcow2"])
def test_directory_with_somebodys_files_is_refused_and_kept(file: str, write: Write, refused: Refused) -> None:
    directory = STORAGE / "ai-how-tried"
    directory.mkdir()
    (directory / file).write_text("mine")
    try:
        said = refused(3, "up", write(), "--no-wait")
        assert (directory / file).read_text() == "mine"
    finally:
        (directory / file).unlink()
        directory.rmdir()
    assert f"{directory} holds files that ai-how did not make: {file}" in said


def test_file_put_into_a_clusters_directory_is_not_destroyed_with_it(ai_how: AiHow, write: Write) -> None:
    path = write(nodes=1)
    assert ai_how("up", path, "--no-start").returncode == 0
    letter = STORAGE / "ai-how-tried" / "letter.txt"
    letter.write_text("mine")
    ran = ai_how("destroy", path, "--yes")
    assert ran.returncode == 3
    assert "letter.txt" in ran.stderr
    assert "Move them elsewhere and run the same command again." in ran.stderr
    assert letter.read_text() == "mine"
    letter.unlink()
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert not letter.parent.exists()


# The base image


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("missing.qcow2", ("missing.qcow2 does not exist", "ai-how image build")),
        ("text.qcow2", ("text.qcow2 is not a qcow2 image", "qemu-img convert -O qcow2")),
        ("raw.qcow2", ("raw.qcow2 is not a qcow2 image", "qemu-img convert -O qcow2")),
        ("empty.qcow2", ("empty.qcow2 is not a qcow2 image", "qemu-img convert -O qcow2")),
        ("", ("cannot be read: Is a directory", "readable qcow2 image")),
        (
            "large.qcow2",
            (
                "the image's disk of 1.5 GiB is larger than disk_gb of tried-controller, tried-compute-01",
                "set disk_gb to at least 2 for them",
            ),
        ),
    ],
)
def test_image_that_cannot_serve_is_refused_where_it_is_named(
    image: str, named: tuple[str, ...], folder: Path, write: Write, refused: Refused
) -> None:
    (folder / "text.qcow2").write_text("not an image " * 100)
    (folder / "empty.qcow2").touch()
    for form, size in (("raw", "1M"), ("qcow2", "1536M")):
        name = {"raw": "raw", "qcow2": "large"}[form]
        shell("qemu-img", "create", "-q", "-f", form, str(folder / f"{name}.qcow2"), size)
    said = refused(2, "up", write(base_image_path=str(folder / image)))
    assert "cluster.yaml:4:22: error: clusters.hpc.base_image_path: " in said
    for each in named:
        assert each in said


# Steps that fail on the way


@contextmanager
def storage_of(size: str) -> Iterator[None]:
    """libvirt's image directory on a file system of this size."""
    shell("mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "tmpfs", str(STORAGE))
    try:
        yield
    finally:
        shell("umount", "--lazy", str(STORAGE))  # after a failed assertion a machine may still have its disk open


def test_full_storage_undoes_what_was_made(write: Write, refused: Refused) -> None:
    with storage_of("300k"):
        said = refused(3, "up", write(), "--no-wait")
        assert list(STORAGE.iterdir()) == []
    assert "cannot make the disk tried-co" in said
    assert "No space left on device" in said


def test_failure_while_a_cluster_grows_leaves_the_cluster_as_it_was(
    write: Write, refused: Refused, ai_how: AiHow, virsh: Virsh
) -> None:
    with storage_of("300k"):
        assert ai_how("up", write(nodes=1), "--no-wait").returncode == 0
        before = (virsh("list", "--all"), virsh("net-dumpxml", "--inactive", "tried-network"), virsh("pool-list"))
        said = refused(3, "up", path := write(nodes=2), "--no-wait")
        assert (
            virsh("list", "--all"),
            virsh("net-dumpxml", "--inactive", "tried-network"),
            virsh("pool-list"),
        ) == before
        assert "cannot make the disk tried-compute-01.qcow2" in said
        assert ai_how("destroy", path, "--yes").returncode == 0
        assert list(STORAGE.iterdir()) == []


def test_taken_dns_port_undoes_what_was_made_and_says_how_to_find_who_has_it(write: Write, refused: Refused) -> None:
    with socket.create_server(("0.0.0.0", 53)):  # noqa: S104 - in the lab's own network
        said = refused(3, "up", write(), "--no-wait")
    assert "cannot start network tried-network: " in said
    assert "Address already in use" in said
    assert "ss -lunp" in said or "ss -ltnup" in said


def test_machine_that_cannot_start_undoes_its_fellows(folder: Path, write: Write, refused: Refused) -> None:
    path = write()
    document = yaml.safe_load(path.read_text())
    document["clusters"]["hpc"]["compute_nodes"][0]["cpu_cores"] = 1000
    path.write_text(yaml.safe_dump(document))
    said = refused(3, "up", path, "--no-wait")
    assert "tried-compute-01" in said
    assert "warning: a node of tried has 1000 CPUs" in said


def test_disk_that_somebody_deleted_is_made_again_and_destroy_does_not_mind(
    ai_how: AiHow, write: Write, clean_host: None
) -> None:
    path = write()
    assert ai_how("up", path, "--no-start").returncode == 0
    disk = STORAGE / "ai-how-tried" / "tried-compute-01.qcow2"
    disk.unlink()
    again = ai_how("up", path, "--no-start")
    assert again.returncode == 0, again.stderr
    assert "create volume ai-how-tried/tried-compute-01.qcow2" in again.stderr
    assert disk.exists()
    disk.unlink()
    gone = ai_how("destroy", path, "--yes")
    assert gone.returncode == 0, gone.stderr


# More than the host has, or something else than the cluster is


def test_more_memory_and_cpus_than_the_host_has_is_a_warning(ai_how: AiHow, write: Write, clean_host: None) -> None:
    path = write(nodes=1, controller={"cpu_cores": 200, "memory_gb": 60000, "disk_gb": 1})
    ran = ai_how("up", path, "--no-start")
    assert ran.returncode == 0, ran.stderr
    assert "warning: the nodes of tried want 61440000 MiB of memory, the host has " in ran.stderr
    assert "warning: a node of tried has 200 CPUs, the host has " in ran.stderr
    assert ai_how("destroy", path, "--yes").returncode == 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"controller": {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 0.5}},
            ("volume ai-how-tried/tried-controller.qcow2: capacity", "cannot shrink without losing data"),
        ),
        (
            {"controller": {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 2}},
            ("volume ai-how-tried/tried-controller.qcow2: capacity", "is running: stop the cluster first"),
        ),
    ],
    ids=["smaller disk", "disk of a running machine"],
)
def test_change_that_would_lose_data_is_refused(
    changed: dict[str, Any], named: tuple[str, ...], ai_how: AiHow, write: Write, refused: Refused
) -> None:
    assert ai_how("up", write(nodes=1), "--no-wait").returncode == 0
    said = refused(3, "up", path := write(nodes=1, **changed), "--no-wait")
    assert "cluster tried is not changed" in said
    for each in named:
        assert each in said
    assert ai_how("destroy", path, "--yes").returncode == 0


@pytest.mark.parametrize(
    "words",
    [("up", "cluster.yaml", "--cluster", "tired"), ("status", "tired"), ("down", "tired"), ("destroy", "tired", "-y")],
    ids=lambda words: words[0],
)
def test_unknown_cluster_is_refused_with_the_known_ones(
    words: tuple[str, ...], ai_how: AiHow, write: Write, refused: Refused
) -> None:
    path = write(nodes=1)
    assert ai_how("up", path, "--no-start").returncode == 0
    said = refused(2, *words)
    assert "there is no cluster" in said
    assert "tired" in said
    assert "id you mean tried?" in said
    assert ai_how("destroy", "tried", "--yes").returncode == 0


def test_file_with_two_clusters_brings_up_both_or_the_one_that_is_named(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], folder: Path, virsh: Virsh, clean_host: None
) -> None:
    document = configuration(nodes=1)
    [other] = configuration(nodes=1, name="other", network={"subnet": "10.45.0.0/24"})["clusters"].values()
    document["clusters"]["second"] = other
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(document))

    assert ai_how("up", path, "--no-start", "--cluster", "second").returncode == 0
    assert virsh("list", "--all", "--name").split() == ["other-controller"]
    both = ai_how("up", path, "--no-start", "--json")
    assert both.returncode == 0, both.stderr
    assert [each["changed"] for each in json.loads(both.stdout)] == [True, False]
    assert sorted(virsh("list", "--all", "--name").split()) == ["other-controller", "tried-controller"]
    assert ai_how("destroy", path, "--yes", "--cluster", "tried").returncode == 0
    assert virsh("list", "--all", "--name").split() == ["other-controller"]
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_what_stands_against_the_last_cluster_of_a_file_keeps_the_first_as_it_is(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], folder: Path, refused: Refused
) -> None:
    document = configuration(nodes=1)
    [other] = configuration(nodes=1, name="other", network={"subnet": "10.45.0.0/24"})["clusters"].values()
    document["clusters"]["second"] = other
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(document))
    assert ai_how("up", path, "--no-start").returncode == 0
    document["clusters"]["hpc"]["network"]["dns_mode"] = "routed"
    other["controller"] = other["controller"] | {"disk_gb": 0.5}
    path.write_text(yaml.safe_dump(document))
    assert "a disk cannot shrink" in refused(3, "up", path, "--no-start")
    assert ai_how("up", path, "--no-start", "--cluster", "tried").returncode == 0


def test_destroy_asks_and_without_a_terminal_wants_yes(ai_how: AiHow, write: Write, refused: Refused) -> None:
    path = write(nodes=1)
    assert ai_how("up", path, "--no-start").returncode == 0
    said = refused(2, "destroy", path)
    assert "add --yes" in said
    assert "tried-controller" in said
    assert ai_how("destroy", path, "--yes").returncode == 0


# libvirt itself


def test_absent_libvirtd_is_named_with_the_way_to_start_it(write: Write, refused: Refused) -> None:
    said = refused(3, "up", write(), LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=/run/nobody-listens")
    assert "no connection to libvirt at qemu+unix:///system?socket=/run/nobody-listens" in said
    assert "/run/nobody-listens" in said
    assert "sudo systemctl start libvirtd" in said


def test_missing_permission_is_named_with_the_command_that_helps(write: Write, folder: Path) -> None:
    """The kernel refuses the socket as it would to a user outside the group: root gives its override away first."""
    path, place = write(), folder / "libvirt-sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        os.chown(place, 65534, 65534)
        place.chmod(0o770)
        ran = subprocess.run(
            [
                *("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"),
                *(sys.executable, "-m", "ai_how", "--connect", f"qemu+unix:///system?socket={place}", "up", str(path)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert ran.returncode == 4, ran.stderr
    assert "no permission to use libvirt" in ran.stderr
    assert "sudo usermod -aG libvirt $USER" in ran.stderr
    assert "Traceback" not in ran.stderr


# The state file


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"version": 1, "clusters": {"tried": 7}}', "cannot be read"),
        (b'{"version": 99, "clusters": {}}', "is of version 99"),
    ],
    ids=["cut off", "binary", "a list", "deep", "wrong shape", "newer version"],
)
def test_state_file_that_cannot_be_used_is_left_alone(
    content: bytes, named: str, folder: Path, write: Write, refused: Refused
) -> None:
    state = folder / "cluster_state.json"
    state.write_bytes(content)
    said = refused(3, "up", write())
    assert f"the state file {state.name} {named}" in said
    assert "--state" in said or f"mv {state.name}" in said
    assert state.read_bytes() == content


@pytest.mark.parametrize(
    ("place", "why"),
    [("missing/state.json", "No such file or directory"), ("cluster.yaml/state.json", "Not a directory")],
)
def test_state_in_a_place_that_is_no_directory_is_refused(place: str, why: str, write: Write, refused: Refused) -> None:
    said = refused(3, "up", write(), "--state", place)
    assert place in said
    assert why in said
    assert "--state PATH or AI_HOW_STATE." in said


def test_state_on_a_read_only_file_system_is_refused(folder: Path, write: Write, refused: Refused) -> None:
    place = folder / "read-only"
    place.mkdir()
    shell("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place))
    try:
        said = refused(3, "up", write(), "--state", place / "state.json")
    finally:
        shell("umount", str(place))
    assert "Read-only file system" in said


def test_locked_state_file_names_its_holder(folder: Path, write: Write, refused: Refused) -> None:
    with (folder / "cluster_state.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        said = refused(3, "up", write())
    assert "cluster_state.json is in use by another ai-how: process 4711 holds" in said
    assert "Wait until it has ended" in said


# Machines that do not come


@pytest.fixture
def cluster(ai_how: AiHow, write: Write, clean_host: None) -> Iterator[Path]:
    """One machine without anything to boot, defined and not started."""
    path = write(nodes=1)
    assert ai_how("up", path, "--no-start").returncode == 0
    yield path
    assert ai_how("destroy", path, "--yes").returncode == 0


@contextmanager
def waiting(path: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """`ai-how up` at the point where it waits for the leases."""
    up = subprocess.Popen(
        [sys.executable, "-m", "ai_how", "up", str(path), "--timeout", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with up:
        assert up.stderr is not None
        for line in up.stderr:
            if line.startswith("waiting for the leases"):
                break
        yield up


def stuck(up: subprocess.Popen[str]) -> str:
    said = up.communicate(timeout=COMMAND_DEADLINE)[1]
    assert up.returncode == 1, said
    assert "1 of 1 nodes have no lease" in said
    assert "ai-how console" in said
    return said


def test_machine_that_never_boots_is_named_with_its_stage_and_left_running(
    cluster: Path, virsh: Virsh, ai_how: AiHow
) -> None:
    with waiting(cluster, 2) as up:
        said = stuck(up)
    assert "tried-controller: its machine has sent nothing yet, no DHCPDISCOVER" in said
    assert virsh("domstate", "tried-controller") == "running"
    assert ai_how("status", cluster).returncode == 0


def test_machine_that_was_powered_off_is_told_from_one_that_is_slow(cluster: Path, virsh: Virsh) -> None:
    with waiting(cluster, 10) as up:
        virsh("destroy", "tried-controller")
        said = stuck(up)
    assert "tried-controller: its machine is not running" in said


@pytest.mark.parametrize("fault", ["link down", "off the bridge"])
def test_machine_without_a_link_is_told_from_one_that_is_silent(fault: str, cluster: Path, virsh: Virsh) -> None:
    with waiting(cluster, 10) as up:
        tap = virsh("domiflist", "tried-controller").split()[0]
        if fault == "link down":
            virsh("domif-setlink", "tried-controller", tap, "down")
        else:
            shell("ip", "link", "set", tap, "nomaster")
        said = stuck(up)
    assert "tried-controller: its machine has no link on the bridge" in said


def test_unanswered_machine_is_told_from_a_silent_one_and_the_next_up_completes(
    ai_how: AiHow, write: Write, micro_image: Path, clean_host: None
) -> None:
    path = write(nodes=1, base_image_path=str(micro_image))
    assert ai_how("up", path, "--no-start").returncode == 0
    dnsmasq = int(Path("/run/libvirt/network/tried-network.pid").read_text())
    os.kill(dnsmasq, signal.SIGSTOP)
    try:
        tap = Path("/sys/class/net/br-tried/brif")
        with waiting(path, 600) as up:
            until(lambda: any(_packets(port.name) for port in tap.iterdir()), "a packet of the guest")
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=COMMAND_DEADLINE)
        ran = ai_how("up", path, "--timeout", "0")
    finally:
        os.kill(dnsmasq, signal.SIGCONT)
    assert ran.returncode == 1
    assert "tried-controller: it sends packets, but no lease was given" in ran.stderr
    again = ai_how("up", path)
    assert again.returncode == 0, again.stderr
    assert ai_how("destroy", path, "--yes").returncode == 0


def _packets(tap: str) -> int:
    return int(Path(f"/sys/class/net/{tap}/statistics/rx_packets").read_text())


def test_machine_that_ignores_the_request_is_powered_off_after_the_deadline(
    cluster: Path, ai_how: AiHow, virsh: Virsh
) -> None:
    assert ai_how("up", cluster, "--no-wait").returncode == 0
    ran = ai_how("down", cluster, "--timeout", "1")
    assert ran.returncode == 0
    assert "warning: powered off after 1 s: tried-controller" in ran.stderr
    assert virsh("domstate", "tried-controller", "--reason") == "shut off (destroyed)"
    assert virsh("net-list", "--name") == ""
