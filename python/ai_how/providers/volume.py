"""Nodes' disks on a host: every qcow2 file in a cluster's pool is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from ai_how.errors import LibvirtError
from ai_how.host.image import header_of
from ai_how.host.libvirt import Handle, Libvirt
from ai_how.providers import pool as pools
from ai_how.resources.names import pool_name
from ai_how.resources.volume import SUFFIX, Volume, read_volume


def observe(libvirt: Libvirt, cluster: str) -> list[Volume]:
    """The disks in the cluster's pool."""
    pool = pool_name(cluster)
    try:
        return _read_all(libvirt, pool)
    except LibvirtError as error:
        if error.code != libvirt.api.VIR_ERR_NO_STORAGE_VOL:
            raise
    # Someone deleted a file and did not tell libvirt, which still lists it.
    return _read_all(libvirt, pool) if pools.refresh(libvirt, pool) else []


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """None: what is in our pool is ours."""
    return {}


def create(libvirt: Libvirt, want: Volume) -> None:
    """Make the overlay. libvirtd runs qemu-img itself, so the caller needs no access to the directory."""
    pool = pools.get(libvirt, want.pool)
    with libvirt.doing(f"cannot make the disk {want.name}"):
        pool.createXML(want.to_xml())


def change(libvirt: Libvirt, have: Volume, want: Volume) -> None:
    """Grow it; plan/refuse.py lets nothing else through."""
    handle = find_file(libvirt, want.pool, want.name)
    if handle is not None and want.capacity != have.capacity:
        with libvirt.doing(f"cannot resize the disk {want.name}"):
            handle.resize(want.capacity)


def remove(libvirt: Libvirt, have: Volume) -> None:
    """Delete the file."""
    delete_file(libvirt, have.pool, have.name)


def _read_all(libvirt: Libvirt, pool: str) -> list[Volume]:
    handles = list_files(libvirt, pool, SUFFIX)
    found = [_read_file(handle, pool) for handle in handles]
    left = [handle for handle, volume in zip(handles, found, strict=True) if volume is None]
    with libvirt.doing(f"cannot read the volumes of {pool}"):
        texts = libvirt.map(lambda handle: handle.XMLDesc(), left)
    return [*filter(None, found), *(read_volume(text, pool=pool) for text in texts)]


def _read_file(handle: Handle, pool: str) -> Volume | None:
    """The disk as its own header has it, which takes libvirt ten times as long to say.

    None where that is for libvirt to say: we may not read it, it is gone, or its base image is not simply a path.
    """
    try:
        header = header_of(Path(handle.key()))
    except OSError:
        return None
    if header is None or not header.backing.startswith("/"):
        return None
    return Volume(pool, handle.name(), header.virtual_size, PurePosixPath(header.backing))


def list_files(libvirt: Libvirt, pool: str, suffix: str) -> list[Handle]:
    """Handles of the files in `pool` that end with `suffix`; empty where the pool is not there or not active."""
    handle = pools.find(libvirt, pool)
    if handle is None or not pools.is_ours(handle):
        return []
    with libvirt.doing(f"cannot list the volumes of {pool}"):
        if not handle.isActive():
            return []
        return [volume for volume in handle.listAllVolumes() if volume.name().endswith(suffix)]


def find_file(libvirt: Libvirt, pool: str, name: str) -> Handle | None:
    """The handle of file `name` in `pool`, None where it is not there."""
    handle = pools.find(libvirt, pool)
    return None if handle is None else libvirt.find(handle.storageVolLookupByName, name)


def delete_file(libvirt: Libvirt, pool: str, name: str) -> None:
    """Delete file `name` of `pool`, if it is there."""
    handle = find_file(libvirt, pool, name)
    if handle is not None:
        with libvirt.doing(f"cannot delete {name}"):
            handle.delete()
