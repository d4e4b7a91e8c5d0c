"""Reading a host on which others are at work at the same time."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from ai_how.host.libvirt import Libvirt
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.providers import pool as pools
from ai_how.providers import volume as volumes
from ai_how.resources.base import Kind, identity_uuid
from ai_how.resources.pool import Pool
from ai_how.resources.volume import Volume, read_volume

NETWORK = "<network><name>restless</name><bridge name='restless'/></network>"
MACHINE = f"""
<domain type='qemu'><name>restless</name><uuid>{identity_uuid(Kind.DOMAIN, "restless")}</uuid>
  <memory>16384</memory><os><type>hvm</type></os></domain>
"""


def test_networks_that_come_and_go_do_not_disturb_reading(libvirt_uri: str) -> None:
    over = threading.Event()

    def come_and_go() -> None:
        with Libvirt(libvirt_uri) as other:
            while not over.is_set():
                network = other.connection.networkCreateXML(NETWORK)
                time.sleep(random.uniform(0, 0.03))  # so that it goes at any moment of the reading
                network.destroy()

    worker = threading.Thread(target=come_and_go)
    worker.start()
    deadline = time.monotonic() + 120
    there: set[bool] = set()
    try:
        with Libvirt(libvirt_uri) as libvirt:
            while there != {True, False}:
                assert time.monotonic() < deadline, f"it was always there, or never: {there}"
                there.add(any(each.name == "restless" for each in networks.observe_all(libvirt)))
    finally:
        over.set()
        worker.join()


def test_machine_is_seen_running_and_stopped_and_never_not_at_all(libvirt_uri: str) -> None:
    with Libvirt(libvirt_uri) as libvirt:
        handle = libvirt.connection.defineXML(MACHINE)
        try:
            states = []
            for act in (handle.create, handle.destroy):
                states += [each.running for each in domains.observe_all(libvirt) if each.name == "restless"]
                act()
            states += [each.running for each in domains.observe_all(libvirt) if each.name == "restless"]
        finally:
            handle.undefine()
    assert states == [False, True, False]


def test_machine_that_is_gone_does_not_run_and_need_not_be_asked_to_stop(libvirt_uri: str) -> None:
    with Libvirt(libvirt_uri) as libvirt:
        handle = libvirt.connection.defineXML(MACHINE)
        handle.create()
        assert domains.is_active(libvirt, handle)
        handle.destroy()
        handle.undefine()
        assert not domains.is_active(libvirt, handle)
        assert domains.shut_down(libvirt, ["restless"], within=1.0) == ()


@pytest.fixture
def disks(libvirt_uri: str) -> Iterator[Path]:
    """The directory of an active pool of ours with disks on a base image, on one beside it, and on none."""
    path = Path("/var/lib/libvirt/images/ai-how-restless")
    pool = Pool("ai-how-restless", PurePosixPath(path), active=True)
    with Libvirt(libvirt_uri) as libvirt:
        pools.create(libvirt, pool)
        try:
            for name, more in (("base", ()), ("usual", (path / "base.qcow2",)), ("beside", ("base.qcow2",))):
                on = ["-F", "qcow2", "-b", *map(str, more)] if more else []
                make = ["qemu-img", "create", "-q", "-f", "qcow2", *on, str(path / f"{name}.qcow2"), "64M"]
                subprocess.run(make, check=True)
            pools.refresh(libvirt, pool.name)
            yield path
        finally:
            for each in path.glob("*.qcow2"):
                each.unlink()
            pools.remove(libvirt, pool)


def test_disk_is_read_from_its_file_as_libvirt_says_it(libvirt_uri: str, disks: Path) -> None:
    subprocess.run(["qemu-img", "resize", "-q", str(disks / "usual.qcow2"), "96M"], check=True)
    with Libvirt(libvirt_uri) as libvirt:
        handles = volumes.list_files(libvirt, disks.name, ".qcow2")
        said = {each.name(): read_volume(each.XMLDesc(), pool=disks.name) for each in handles}
        found = {each.name: each for each in volumes.observe(libvirt, "restless")}
    assert found == said
    assert found["usual.qcow2"] == Volume(disks.name, "usual.qcow2", 96 * 2**20, PurePosixPath(disks / "base.qcow2"))
    assert found["beside.qcow2"].backing == PurePosixPath(disks / "base.qcow2")
    assert found["base.qcow2"].backing == PurePosixPath()


def test_disk_whose_file_may_not_be_read_is_asked_for(libvirt_uri: str, disks: Path) -> None:
    with Libvirt(libvirt_uri) as libvirt:
        before = volumes.observe(libvirt, "restless")
        for each in disks.glob("*.qcow2"):
            each.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                (disks / "usual.qcow2").read_bytes()
            assert sorted(volumes.observe(libvirt, "restless"), key=str) == sorted(before, key=str)
        finally:
            os.seteuid(0)


def test_disk_that_was_deleted_behind_libvirts_back_is_not_there(libvirt_uri: str, disks: Path) -> None:
    (disks / "usual.qcow2").unlink()
    with Libvirt(libvirt_uri) as libvirt:
        assert {each.name for each in volumes.observe(libvirt, "restless")} == {"base.qcow2", "beside.qcow2"}
