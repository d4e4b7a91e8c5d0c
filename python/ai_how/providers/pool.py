"""Storage pools on a host."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from ai_how.errors import NotOurs
from ai_how.host.libvirt import Handle, Libvirt
from ai_how.resources.base import Kind, identity_uuid
from ai_how.resources.names import pool_cluster, pool_name
from ai_how.resources.pool import Pool, read_pool

#: Seconds within which libvirt must have made a volume: seconds for an emptied one, more where it writes all of it.
IDLE_WITHIN = 30.0


def observe(libvirt: Libvirt, cluster: str) -> list[Pool]:
    """The cluster's pool, if it is there."""
    handle = find(libvirt, pool_name(cluster))
    if handle is None or not is_ours(handle):
        return []
    with libvirt.doing(f"cannot read storage pool {handle.name()}"):
        return [read_pool(handle.XMLDesc(), active=bool(handle.isActive()))]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Pools of these names that someone else made."""
    found = {}
    for name in names:
        handle = find(libvirt, name)
        if handle is not None and not is_ours(handle):
            found[name] = f"a storage pool with UUID {handle.UUIDString()} that ai-how did not make"
    return found


def observe_all(libvirt: Libvirt) -> list[Pool]:
    """Every pool of the host that carries our mark, of all clusters."""
    with libvirt.doing("cannot list the host's storage pools"):
        handles = [each for each in libvirt.connection.listAllStoragePools() if is_ours(each)]
        return [read_pool(each.XMLDesc(), active=bool(each.isActive())) for each in handles]


def clusters(libvirt: Libvirt) -> set[str]:
    """The clusters that have a pool on the host."""
    with libvirt.doing("cannot list the host's storage pools"):
        handles = libvirt.connection.listAllStoragePools()
    return {pool_cluster(handle.name()) for handle in handles if is_ours(handle)}


def define(libvirt: Libvirt, want: Pool) -> Handle:
    """Define it and no more; its directory and what is in it stay as they are."""
    with libvirt.doing(f"cannot define storage pool {want.name}"):
        return libvirt.connection.storagePoolDefineXML(want.to_xml())


def create(libvirt: Libvirt, want: Pool) -> None:
    """Define the pool, make its directory, start it. Raises NotOurs where the directory is there and not empty."""
    handle = define(libvirt, want)
    strangers = _files_before(libvirt, handle)
    if strangers:
        # Only the definition is ours: the directory and what is in it stay as they are.
        with libvirt.doing(f"cannot undefine storage pool {want.name}"):
            handle.destroy()
            handle.undefine()
        raise _not_ours(want, strangers, f"storage pool {want.name} cannot be made")
    _start(libvirt, handle, want)


def change(libvirt: Libvirt, have: Pool, want: Pool) -> None:
    """Start it: nothing else of a pool changes in its life."""
    handle = find(libvirt, want.name)
    if handle is not None and want.active:
        _start(libvirt, handle, want)


def remove(libvirt: Libvirt, have: Pool) -> None:
    """Remove the directory and the pool. Raises NotOurs where files remain that ai-how did not put there."""
    handle = find(libvirt, have.name)
    if handle is None:
        return
    with libvirt.doing(f"cannot remove storage pool {have.name}"):
        if handle.isActive():
            _when_idle(libvirt, handle.refresh)
            strangers = handle.listVolumes()
            if strangers:
                raise _not_ours(have, strangers, f"storage pool {have.name} is not removed")
            _when_idle(libvirt, handle.destroy)
    # A directory that is gone already, or was never made, is no failure.
    try:
        handle.delete()
    except libvirt.api.libvirtError as error:
        if "No such file" not in (error.get_error_message() or ""):
            with libvirt.doing(f"cannot remove the directory {have.path}"):
                raise
    with libvirt.doing(f"cannot undefine storage pool {have.name}"):
        handle.undefine()


def find(libvirt: Libvirt, name: str) -> Handle | None:
    """The pool's handle, None where there is none of that name."""
    return libvirt.find(libvirt.connection.storagePoolLookupByName, name)


def get(libvirt: Libvirt, name: str) -> Handle:
    """The pool's handle. Raises LibvirtError where there is none of that name."""
    return libvirt.get(libvirt.connection.storagePoolLookupByName, name)


def refresh(libvirt: Libvirt, name: str) -> bool:
    """Let libvirt look at the pool's files anew; whether their directory is there."""
    handle = find(libvirt, name)
    with libvirt.doing(f"cannot read the storage pool {name} anew"):
        try:
            if handle is not None and handle.isActive():
                _when_idle(libvirt, handle.refresh)
                return True
        except libvirt.api.libvirtError as error:
            if "No such file" not in (error.get_error_message() or ""):
                raise
    return False


def is_ours(handle: Handle) -> bool:
    """Whether the pool carries our mark: the UUID that follows from its name."""
    return bool(handle.UUIDString() == str(identity_uuid(Kind.POOL, handle.name())))


def _when_idle(libvirt: Libvirt, operation: Callable[[], object]) -> None:
    """Do it as soon as libvirt has ended what somebody who was killed had asked of the pool: it refuses until then."""
    deadline = time.monotonic() + IDLE_WITHIN
    while True:
        try:
            operation()
            return
        except libvirt.api.libvirtError as error:
            if "asynchronous jobs" not in (error.get_error_message() or "") or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _files_before(libvirt: Libvirt, handle: Handle) -> list[str]:
    """What is in the pool's directory already; a pool without its directory does not start."""
    try:
        if not handle.isActive():
            handle.create()
    except libvirt.api.libvirtError:
        return []
    with libvirt.doing(f"cannot read storage pool {handle.name()}"):
        return list(handle.listVolumes())


def _not_ours(pool: Pool, strangers: Collection[str], what: str) -> NotOurs:
    return NotOurs(
        what,
        why=f"{pool.path} holds files that ai-how did not make: {', '.join(sorted(strangers)[:5])}",
        remedy="Move them elsewhere and run the same command again.",
    )


def _start(libvirt: Libvirt, handle: Handle, want: Pool) -> None:
    with libvirt.doing(f"cannot make the directory {want.path}"):
        handle.build()
    with libvirt.doing(f"cannot start storage pool {want.name}"):
        if not handle.isActive():
            handle.create()
