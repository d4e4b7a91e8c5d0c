"""A pool on which libvirt is still at work for somebody who was killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from ai_how.host.libvirt import Handle, Libvirt
from ai_how.providers import pool as pools
from ai_how.resources.pool import Pool

MIB = 1024 * 1024


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    with Libvirt(libvirt_uri) as opened:
        yield opened


@pytest.fixture
def busy(libvirt: Libvirt) -> Iterator[tuple[Pool, Handle]]:
    """A pool in which libvirt copies a volume, as somebody asked who is gone."""
    pool = Pool("ai-how-busy", PurePosixPath("/var/lib/libvirt/images/ai-how-busy"), active=True)
    pools.create(libvirt, pool)
    source = Path(pool.path, "source")
    block = bytes(range(256)) * 4096
    with source.open("wb") as file:
        for _ in range(700):
            file.write(block)
    pools.refresh(libvirt, pool.name)
    asker = subprocess.Popen(["virsh", "vol-clone", "--pool", pool.name, "source", "copy"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not Path(pool.path, "copy").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    asker.kill()
    asker.wait()
    yield pool, libvirt.connection.storagePoolLookupByName(pool.name)
    for each in (source, Path(pool.path, "copy")):
        each.unlink(missing_ok=True)
    pools.remove(libvirt, pool)


def test_pool_at_work_for_somebody_who_was_killed_is_waited_for(libvirt: Libvirt, busy: tuple[Pool, Handle]) -> None:
    pool, handle = busy
    with pytest.raises(libvirt.api.libvirtError, match="asynchronous jobs"):
        handle.refresh()
    assert pools.refresh(libvirt, pool.name)
    assert Path(pool.path, "copy").stat().st_size == Path(pool.path, "source").stat().st_size
