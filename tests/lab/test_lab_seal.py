"""Nothing of a lab is left on its host, however it ends, and nothing shows while it runs.

The host is the lab these tests run in; the labs under test are opened inside it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.host_view import HostView, left
from tests.waiting import COMES_WITHIN, kill, until

from ai_how.lab import Lab, LabSpec, cache_directory, open_lab

Look = Callable[[], HostView]
Compare = Callable[[HostView, HostView], list[str]]

NETWORK = """
<network><name>sealed</name><forward mode='nat'/><bridge name='br-sealed' stp='off' delay='0'/>
  <ip address='10.9.8.1' netmask='255.255.255.0'><dhcp><range start='10.9.8.10' end='10.9.8.99'/></dhcp></ip>
</network>
"""
DOMAIN = """
<domain type='qemu'><name>sealed-domain</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><interface type='network'><source network='sealed'/><model type='virtio'/></interface></devices>
</domain>
"""
#: Uses all that a lab has, says so, and goes on until it is ended.
WORK = """
set -e
echo "$1" > /run/network.xml; echo "$2" > /run/domain.xml
virsh -q net-define /run/network.xml; virsh -q net-start sealed; virsh -q net-autostart sealed
virsh -q define /run/domain.xml; virsh -q start sealed-domain
touch /etc/sysctl.d/99-of-the-lab.conf /var/lib/ai-how/of-the-lab
nft add table inet of-the-lab
setsid sleep 1000 < /dev/null > /dev/null 2>&1 &
virsh -q domstate sealed-domain
exec sleep "$3"
"""


def work_for(seconds: int) -> list[str]:
    return ["sh", "-c", WORK, "work", NETWORK, DOMAIN, str(seconds)]


def test_devices_can_be_used_and_not_replaced() -> None:
    """As root `plan -o /dev/stdout` once replaced the machine's own link."""
    before = Path("/dev/stdout").readlink()
    tried = "echo fine > /dev/null && head -c1 /dev/urandom > /dev/null && echo used; ln -sf elsewhere /dev/stdout"
    with open_lab(LabSpec(cache=cache_directory())) as lab:
        ran = lab.run(["sh", "-c", tried], timeout=60)
    assert ran.stdout == "used\n"
    assert "Read-only file system" in ran.stderr
    assert Path("/dev/stdout").readlink() == before


def test_a_finished_lab_leaves_nothing(look_at_host: Look) -> None:
    before = look_at_host()
    done = in_own_process(work_for(0))
    assert (done.wait(300), done.communicate()) == (0, ("running\n", ""))
    assert left(before) == []


def test_a_running_lab_shows_only_as_processes(
    look_at_host: Look, compare: Compare, nested_lab: Callable[..., Lab]
) -> None:
    before = look_at_host()
    lab = nested_lab(internet=True)
    assert lab.run(work_for(0)).stdout.strip() == "running"
    during = compare(before, look_at_host())
    assert [line for line in during if not line.startswith("processes: +")] == []
    assert any("qemu-system" in line for line in during)
    inside = lab.run(["ip", "-o", "link"]).stdout
    assert "br-sealed" in inside


def test_killing_the_outer_process_ends_the_lab(look_at_host: Look, compare: Compare) -> None:
    before = look_at_host()
    outer = in_own_process(work_for(1000))
    assert outer.stdout is not None
    assert outer.stdout.readline() == "running\n"
    assert any("qemu-system" in line for line in compare(before, look_at_host()))
    outer.kill()
    outer.wait()
    assert left(before) == []


def test_killing_process_1_ends_the_lab(look_at_host: Look) -> None:
    before = look_at_host()
    with open_lab(LabSpec(internet=True, cache=cache_directory())) as lab:
        command = subprocess.Popen(lab.enter(work_for(1000)), env=lab.environment, stdout=subprocess.PIPE, text=True)
        with command:
            assert command.stdout is not None
            assert command.stdout.readline() == "running\n"
            os.kill(lab.pid, signal.SIGKILL)
            assert command.wait(COMES_WITHIN) == -signal.SIGKILL
    assert left(before) == []


@pytest.mark.parametrize(
    ("part", "leave"),
    [
        ("links", ["ip", "link", "add", "left", "type", "veth", "peer", "name", "left-peer"]),
        ("nft", ["nft", "add", "table", "inet", "left"]),
        ("settings", ["sh", "-c", "echo 77 > /proc/sys/net/ipv4/ip_default_ttl"]),
        ("files", ["touch", "/var/lib/libvirt/left"]),
        ("processes", ["sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $! > /run/left.pid"]),
    ],
)
def test_the_comparison_sees_what_is_left(part: str, leave: list[str], look_at_host: Look, compare: Compare) -> None:
    before = look_at_host()
    subprocess.run(leave, check=True)
    try:
        # A process is seen once it is what it shall be, and the shell does not wait for that.
        until(lambda: [line for line in compare(before, look_at_host()) if line.startswith(f"{part}: +")], part)
    finally:
        remove_what_was_left()
    assert left(before) == []


def in_own_process(command: list[str]) -> subprocess.Popen[str]:
    code = "import sys; from ai_how.lab import run; sys.exit(run(sys.argv[1:], internet=True))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def remove_what_was_left() -> None:
    subprocess.run(["ip", "link", "del", "left"], capture_output=True, check=False)
    subprocess.run(["nft", "delete", "table", "inet", "left"], capture_output=True, check=False)
    Path("/proc/sys/net/ipv4/ip_default_ttl").write_text("64")
    Path("/var/lib/libvirt/left").unlink(missing_ok=True)
    pid_file = Path("/run/left.pid")
    if pid_file.exists():
        kill(int(pid_file.read_text()))
        pid_file.unlink()
