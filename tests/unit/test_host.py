"""The doors to the host: what is read of it is understood, and files survive what happens to their writer."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ai_how.errors import CommandFailed, StateError
from ai_how.host.files import locked, write_atomically
from ai_how.host.image import MAGIC, blocked_for, header_of, read_header
from ai_how.host.machine import judge_kvm
from ai_how.host.process import output
from ai_how.host.routes import read_routes

HOLD = """
import sys, time
from pathlib import Path
from ai_how.host.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


# Files


def test_a_file_is_replaced_as_a_whole_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\udc80")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_excludes_other_processes_and_names_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "state.json.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StateError, match=f"in use by another ai-how: process {holder.pid} holds"),
            locked(lock),
        ):
            pass
        holder.kill()
        holder.wait()
    # Its holder was killed: the lock is free though its file is still there.
    assert lock.exists()
    with locked(lock):
        assert lock.read_text() == f"{os.getpid()}\n"
    assert not lock.exists()


def test_a_lock_is_no_way_to_write_through_a_link(tmp_path: Path) -> None:
    target, lock = tmp_path / "precious", tmp_path / "state.json.lock"
    target.write_text("precious")
    lock.symlink_to(target)
    with pytest.raises(StateError, match="cannot be locked"), locked(lock):
        pass
    assert target.read_text() == "precious"


# Images


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (struct.pack(">4sIQIIQ", MAGIC, 3, 0, 0, 16, 123456), 123456),
        (struct.pack(">4sIQIIQ", MAGIC, 2, 0, 0, 16, 7), 7),
        (struct.pack(">4sIQIIQ", MAGIC, 1, 0, 0, 16, 7), None),
        (struct.pack(">4sIQIIQ", b"VHDX", 3, 0, 0, 16, 7), None),
        (MAGIC, None),
        (b"", None),
    ],
    ids=["version 3", "version 2", "the older qcow", "another format", "cut off", "empty"],
)
def test_the_header_tells_qcow2_and_its_size_from_everything_else(data: bytes, size: int | None) -> None:
    found = read_header(data)
    assert (None if found is None else found.virtual_size) == size


def test_the_size_is_the_one_qemu_says(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "3G"], check=True)
    said = json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    )
    header = header_of(path)
    assert header is not None
    assert header.virtual_size == said["virtual-size"] == 3 * 2**30
    assert header.backing == ""


def test_the_image_below_is_named_whole_or_not_at_all(tmp_path: Path) -> None:
    path, below = tmp_path / "disk.qcow2", "/" + "/".join(["x" * 200] * 5)  # QEMU takes 1023 bytes
    create = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, str(path), "1G"]
    subprocess.run(create, check=True)
    header = header_of(path)
    assert header is not None
    assert header.backing == below
    beginning = path.read_bytes()[: path.read_bytes().index(below.encode()) + 500]
    cut = read_header(beginning)
    assert cut is not None
    assert cut.backing == ""


NOBODY = 65534


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "blocked"),
    [
        (0o711, NOBODY, NOBODY, False),
        (0o700, NOBODY, NOBODY, True),
        (0o770, NOBODY, NOBODY, True),
        (0o710, NOBODY, os.getgid(), False),
        (0o701, NOBODY, os.getgid(), True),  # the group's bits count for its members, not the others'
        (0o100, os.getuid() or 4711, NOBODY, None),
        (0o000, 0, 0, False),
    ],
)
def test_a_directory_that_qemus_user_may_not_pass_is_named(
    mode: int, uid: int, gid: int, blocked: bool | None, tmp_path: Path
) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    inner = tmp_path / "inner"
    inner.mkdir()
    image = inner / "base.qcow2"
    image.touch()
    inner.chmod(mode)
    try:
        found = blocked_for(image, uid, gid)
    finally:
        inner.chmod(0o755)
    if blocked is None:  # the owner passes, where we are not root; a stranger does not
        assert found == (None if uid == os.getuid() else inner)
    else:
        assert found == (inner if blocked else None)


def test_the_way_is_checked_where_a_link_leads_to(tmp_path: Path) -> None:
    closed, link = tmp_path / "closed", tmp_path / "base.qcow2"
    closed.mkdir(mode=0o700)
    (closed / "base.qcow2").touch()
    link.symlink_to(closed / "base.qcow2")
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    assert blocked_for(link, NOBODY, NOBODY) == closed


# The machine

INTEL, AMD, NEITHER = "flags\t\t: fpu vmx sse\n", "processor: 0\nflags : svm\n", "flags : fpu sse\n"


@pytest.mark.parametrize(
    ("offered", "device", "cpuinfo", "usable", "why"),
    [
        (True, "", INTEL, True, "vmx"),
        (True, "", AMD, True, "svm"),
        (True, "", NEITHER, False, "neither vmx nor svm: guests would hang"),
        (True, "", "", False, "neither vmx nor svm"),
        (True, "", "bugs : vmx\n" + NEITHER, False, "neither vmx nor svm"),
        (True, "/dev/kvm does not open: No such file", INTEL, False, "No such file"),
        (False, "", INTEL, False, "libvirt does not offer it"),
    ],
)
def test_kvm_is_believed_only_where_everything_speaks_for_it(
    offered: bool, device: str, cpuinfo: str, usable: bool, why: str
) -> None:
    found = judge_kvm(offered=offered, device=device, cpuinfo=cpuinfo)
    assert found.usable is usable
    assert why in found.why


# Routes

ROUTES = """[
 {"dst":"default","gateway":"203.0.113.1","dev":"eth0","flags":[]},
 {"dst":"10.8.0.0/16","gateway":"10.8.0.1","dev":"tun0","table":"51820","flags":[]},
 {"dst":"203.0.113.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"203.0.113.2","flags":[]},
 {"dst":"192.168.7.7","dev":"eth0","flags":[]},
 {"type":"blackhole","dst":"10.9.0.0/16","flags":[]},
 {"type":"local","dst":"127.0.0.0/8","dev":"lo","table":"local","flags":[]},
 {"type":"broadcast","dst":"203.0.113.255","dev":"eth0","table":"local","flags":[]},
 {"dst":"0.0.0.0/1","dev":"tun0","flags":[]}
]"""


def test_routes_that_lead_to_a_network_are_read_from_every_table() -> None:
    """And no others: not the default route, nor the two halves that a VPN puts in its place."""
    assert {(str(route.network), route.link) for route in read_routes(ROUTES)} == {
        ("10.8.0.0/16", "tun0"),
        ("203.0.113.0/24", "eth0"),
    }


def test_a_kernel_without_routes_is_no_error() -> None:
    assert read_routes("") == read_routes("[]") == ()


# Processes


def test_a_program_that_fails_shows_what_it_said() -> None:
    code = "import sys; print('what went wrong', file=sys.stderr); sys.exit(7)"
    with pytest.raises(CommandFailed, match="ended with 7: what went wrong") as caught:
        output([sys.executable, "-c", code])
    assert caught.value.returncode == 7


def test_a_program_that_is_killed_is_told_from_one_that_failed() -> None:
    with pytest.raises(CommandFailed, match=re.escape("was ended by signal 9 (Killed): it said nothing")):
        output([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


def test_a_program_that_is_missing_or_hangs_is_named_with_the_remedy() -> None:
    with pytest.raises(CommandFailed, match="no-such-program could not be run") as caught:
        output(["no-such-program"], remedy="Install it.")
    assert str(caught.value).endswith("\nInstall it.")
    with pytest.raises(CommandFailed, match=re.escape("no end after 0.1 s")):
        output(["sleep", "60"], timeout=0.1)
