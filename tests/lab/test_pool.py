"""A pool on which libvirt is still at work for somebody who was killed."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from tests.waiting import until

from ai_how.host.libvirt import Handle, Libvirt
from ai_how.providers import pool as pools
from ai_how.resources.pool import Pool

#: In place of the program that copies: it does not until it may.
HELD = """#!/bin/sh
until [ -e {may} ]; do sleep 0.02; done
exec {copies} "$@"
"""


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    with Libvirt(libvirt_uri) as opened:
        yield opened


@pytest.fixture
def may(tmp_path: Path) -> Iterator[Path]:
    """As long as it is not there, nothing is copied."""
    program = shutil.which("qemu-img")
    assert program is not None
    copies, held, made = (tmp_path / each for each in ("copies", "held", "may"))
    shutil.copy(program, copies)
    held.write_text(HELD.format(may=made, copies=copies))
    held.chmod(0o755)
    subprocess.run(["mount", "--bind", str(held), program], check=True)
    try:
        yield made
    finally:
        made.touch()
        subprocess.run(["umount", "--lazy", program], check=True)


@pytest.fixture
def busy(libvirt: Libvirt, may: Path) -> Iterator[tuple[Pool, Handle]]:
    """A pool in which libvirt copies a volume, as somebody asked who is gone."""
    pool = Pool("ai-how-busy", PurePosixPath("/var/lib/libvirt/images/ai-how-busy"), active=True)
    pools.create(libvirt, pool)
    source, copy = (Path(pool.path, each) for each in ("source.qcow2", "copy.qcow2"))
    subprocess.run([str(may.with_name("copies")), "create", "-q", "-f", "qcow2", str(source), "1M"], check=True)
    pools.refresh(libvirt, pool.name)
    handle = libvirt.connection.storagePoolLookupByName(pool.name)
    clone = ["virsh", "vol-clone", "--pool", pool.name, source.name, copy.name]
    with subprocess.Popen(clone, stdout=subprocess.DEVNULL) as asker:
        until(lambda: "asynchronous jobs" in refusal(libvirt, handle), "libvirt copies")
        asker.kill()
    yield pool, handle
    may.touch()
    pools.refresh(libvirt, pool.name)
    for each in (source, copy):
        each.unlink(missing_ok=True)
    pools.remove(libvirt, pool)


def refusal(libvirt: Libvirt, handle: Handle) -> str:
    """What libvirt says against reading the pool anew; empty where it does."""
    try:
        handle.refresh()
    except libvirt.api.libvirtError as error:
        return str(error)
    return ""


def test_pool_at_work_for_somebody_who_was_killed_is_waited_for(
    libvirt: Libvirt, busy: tuple[Pool, Handle], may: Path
) -> None:
    pool, handle = busy
    assert "asynchronous jobs" in refusal(libvirt, handle)
    waited = threading.Timer(0.5, may.touch)
    waited.start()
    assert pools.refresh(libvirt, pool.name)
    assert may.exists()
    assert {each.name() for each in handle.listAllVolumes()} == {"source.qcow2", "copy.qcow2"}
    waited.join()
