"""Hosts that lack something: each in a lab of its own, where a program is covered or a setting is changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.clusters.conftest import COMMAND_DEADLINE

from ai_how.lab import Lab

Ran = subprocess.CompletedProcess[str]
Write = Callable[..., Path]

#: A file that may not be executed is put over every such program, as if it were not installed.
COVER = 'touch /run/nothing; for program in "$@"; do [ ! -e "$program" ] || mount --bind /run/nothing "$program"; done'
RESTART = """
pid=$(cat /run/libvirtd.pid); kill "$pid"
while [ -e "/proc/$pid" ]; do sleep 0.02; done
libvirtd -d
until virsh -q list > /dev/null 2>&1; do sleep 0.02; done
"""
LEFT = "virsh -q list --all; virsh -q net-list --all; virsh -q pool-list --all; ls /var/lib/libvirt/images"


@pytest.fixture
def lab(nested_lab: Callable[..., Lab]) -> Lab:
    return nested_lab()


@pytest.fixture
def refused(lab: Lab, folder: Path) -> Callable[..., str]:
    """`refused(3, path)`: `ai-how up` in the lab ends with this exit code and leaves nothing there."""

    def call(code: int, path: Path) -> str:
        ran = lab.run([sys.executable, "-m", "ai_how", "up", str(path), "--no-wait"], timeout=COMMAND_DEADLINE)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr
        assert lab.run(["sh", "-c", LEFT], check=True).stdout.split() == []
        assert not (folder / "cluster_state.json").exists()
        return ran.stderr

    return call


def cover(lab: Lab, *programs: str) -> None:
    lab.run(["sh", "-c", COVER, "cover", *programs], check=True)


def programs(pattern: str) -> list[str]:
    return [str(path) for folder in ("/usr/bin", "/usr/sbin", "/usr/libexec") for path in Path(folder).glob(pattern)]


def test_missing_dnsmasq_is_named_with_its_package(lab: Lab, write: Write, refused: Callable[..., str]) -> None:
    cover(lab, *programs("dnsmasq"))
    said = refused(3, write())
    assert "dnsmasq, which answers DHCP and DNS on them, is not installed" in said
    assert "apt-get install dnsmasq-base" in said


def test_missing_qemu_is_named_with_its_package(lab: Lab, write: Write, refused: Callable[..., str]) -> None:
    cover(lab, *programs("qemu-system-*"), *programs("qemu-kvm"), *programs("kvm"))
    lab.run(
        ["sh", "-c", f"rm -f /var/cache/libvirt/qemu/capabilities/*; {RESTART}"], check=True, timeout=COMMAND_DEADLINE
    )
    said = refused(3, write())
    assert "this host cannot run machines: libvirt knows no QEMU for x86-64 guests" in said
    assert "apt-get install qemu-system-x86" in said


def test_kvm_that_does_not_work_is_refused_where_it_is_asked_for(
    lab: Lab, write: Write, refused: Callable[..., str]
) -> None:
    """A device cannot be opened on the lab's /run."""
    lab.run(
        ["sh", "-c", "[ ! -e /dev/kvm ] || { mknod /run/kvm c 10 232; mount --bind /run/kvm /dev/kvm; }"], check=True
    )
    said = refused(3, write(accelerator="kvm"))
    assert "cluster tried asks for KVM, which does not work on this host: " in said
    assert "or set accelerator: auto" in said


def test_accelerator_that_was_chosen_is_said_with_the_reason(lab: Lab, write: Write) -> None:
    lab.run(
        ["sh", "-c", "[ ! -e /dev/kvm ] || { mknod /run/kvm c 10 232; mount --bind /run/kvm /dev/kvm; }"], check=True
    )
    ran = lab.run([sys.executable, "-m", "ai_how", "up", str(write(nodes=1)), "--no-wait"], timeout=COMMAND_DEADLINE)
    assert ran.returncode == 0, ran.stderr
    assert "accelerator: TCG (slow emulation), because " in ran.stderr
    assert "type='qemu'" in lab.run(["virsh", "dumpxml", "tried-controller"]).stdout


def test_image_that_qemus_user_cannot_reach_is_refused_with_the_directory_in_the_way(
    lab: Lab, folder: Path, write: Write, refused: Callable[..., str], blank_image: Path
) -> None:
    settings = 'sed -i \'s/^user = .*/user = "nobody"/; s/^group = .*/group = "nogroup"/\' /etc/libvirt/qemu.conf'
    lab.run(["sh", "-c", f"{settings}; {RESTART}"], check=True, timeout=COMMAND_DEADLINE)
    private = folder / "private"
    private.mkdir(mode=0o700)
    image = private / "base.qcow2"
    image.write_bytes(blank_image.read_bytes())
    blocked = next(each for each in (*reversed(folder.parents), folder, private) if not each.stat().st_mode & 0o001)
    said = refused(2, write(base_image_path=str(image)))
    assert f"QEMU's user (uid 65534) cannot reach {image}: it may not pass {blocked}" in said
    assert f"chmod o+x {blocked}" in said
