"""libvirt's network hook on a host, and whether libvirt runs it already."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ai_how.compile.hook import LOG, MARK, TRANSACTION, UNKNOWN
from ai_how.errors import HostError, NotOurs
from ai_how.host import daemon, memory
from ai_how.host.files import half, write_atomically
from ai_how.host.libvirt import Libvirt
from ai_how.resources.hook import PATH, Hook

#: Which directories we made for it, the outermost first; and the file, for those who may not look into /etc/libvirt.
_MEMORY = "hook.json"

#: Seconds. libvirt renews its own rules for every network that runs, which takes up to 0.5 s for each.
_RELOADED_WITHIN = 120.0

_UNREADABLE = "a file that cannot be read"


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The directories that we made for it, and what we wrote."""

    made: tuple[str, ...]
    content: str
    mode: str


def observe(libvirt: Libvirt, cluster: str) -> list[Hook]:
    """Our file as it is, empty where it is gone or was not written yet; what it was last, where this user may not
    look."""
    said = _recall()
    try:
        found = _read(Path(PATH))
    except OSError:
        return [] if said is None else [Hook(said.content, said.mode)]
    if found is None:
        return [] if said is None or _stranger(Path(PATH)) else [Hook("", "")]
    return [replace(found, remembered=said is not None)] if found.content.startswith(MARK) else []


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """A file of that name that does not begin with our mark."""
    return {name: owner for name in names if (owner := _stranger(Path(name)))}


def create(libvirt: Libvirt, want: Hook) -> None:
    """Write it, with the directories that it needs, and let libvirt know of it."""
    path = Path(want.path)
    if owner := _stranger(path):
        raise NotOurs(
            f"libvirt's network hook {path} is not written",
            why=f"it is {owner}",
            remedy="Give it another name, and run the same command again: libvirt runs every file in that directory.",
        )
    missing = [str(each) for each in reversed(path.parents) if not each.exists()]
    made = [each for each in _made(path) if each not in missing] + missing
    memory.remember(_MEMORY, asdict(_Remembered(tuple(made), want.content, want.mode)))
    first = not path.exists()
    try:
        if first:
            _note_who_does_not_know()
        for directory in missing:
            Path(directory).mkdir(exist_ok=True)
            Path(directory).chmod(0o755)
        write_atomically(path, want.content)
        path.chmod(int(want.mode, 8))
        if first:
            _introduce(libvirt)
    except OSError as error:
        raise _trouble(path, error) from error


def change(libvirt: Libvirt, have: Hook, want: Hook) -> None:
    """Write it anew."""
    if want.content:
        create(libvirt, want)
    # Else this is an undo to a hook that was gone: networks that run need it.


def remove(libvirt: Libvirt, have: Hook) -> None:
    """Remove it, the directories that we made if nobody else uses them, and what it left behind."""
    path = Path(have.path)
    made = _made(path)
    try:
        ours = [Path(each) for each in (LOG, UNKNOWN, TRANSACTION)]
        for file in ours if _stranger(path) else [path, *ours]:
            file.unlink(missing_ok=True)
            half(file).unlink(missing_ok=True)
    except OSError as error:
        raise _trouble(path, error) from error
    for directory in reversed(made):
        with contextlib.suppress(OSError):  # somebody's file is in it, or it is gone
            Path(directory).rmdir()
    memory.forget(_MEMORY)


def hook_known(libvirt: Libvirt) -> bool:
    """Whether libvirt will run the hook when the next network starts.

    It looks for hooks when it starts and when it is told to reload; one that came when there were none is not seen
    before that.
    """
    try:
        deaf = Path(UNKNOWN).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _trouble(Path(UNKNOWN), error) from error
    pid = daemon.find()
    return pid is None or daemon.identity(pid) != deaf


def _note_who_does_not_know() -> None:
    """That note goes with the reload, with the daemon, with a boot, and with the first run of the hook."""
    pid = daemon.find()
    if pid is not None:
        write_atomically(Path(UNKNOWN), daemon.identity(pid) + "\n")
        Path(UNKNOWN).chmod(0o644)


def _introduce(libvirt: Libvirt) -> None:
    """Let libvirt look for hooks, unless that would start what somebody has stopped."""
    pid = daemon.find()
    if pid is None or _reload_starts_something(libvirt):
        return
    daemon.reload(pid)
    with Libvirt(libvirt.uri) as newcomer, newcomer.doing("libvirt does not answer after a reload"):
        newcomer.connection.numOfNetworks()
    deadline = time.monotonic() + _RELOADED_WITHIN
    while daemon.is_reloading(pid):
        if time.monotonic() > deadline:
            raise HostError(
                f"libvirt's reload takes longer than {_RELOADED_WITHIN:.0f} s",
                why=f"process {pid} still reads its configuration anew",
                remedy="Run the same command again.",
            )
        time.sleep(0.02)
    Path(UNKNOWN).unlink(missing_ok=True)


def _reload_starts_something(libvirt: Libvirt) -> bool:
    """A network or a pool that is marked for autostart and does not run."""
    api, connection = libvirt.api, libvirt.connection
    with libvirt.doing("cannot list what libvirt starts by itself"):
        return bool(
            connection.listAllNetworks(api.VIR_CONNECT_LIST_NETWORKS_INACTIVE | api.VIR_CONNECT_LIST_NETWORKS_AUTOSTART)
            or connection.listAllStoragePools(
                api.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE | api.VIR_CONNECT_LIST_STORAGE_POOLS_AUTOSTART
            )
        )


def _read(path: Path) -> Hook | None:
    """The file, None where there is none, or something else of its name. Raises OSError where that cannot be seen."""
    try:
        seen = path.lstat()
        if not path.is_file() or path.is_symlink():
            return None
        return Hook(path.read_text(encoding="utf-8", errors="replace"), f"{seen.st_mode & 0o7777:04o}", str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stranger(path: Path) -> str:
    """Whose it is, if it is not ours; empty where it is, or where there is none."""
    try:
        found = _read(path)
    except OSError:
        return _UNREADABLE if memory.is_root() else ""
    if found is None:
        return "something that is no file" if os.path.lexists(path) else ""
    return "" if found.content.startswith(MARK) else "a hook that ai-how did not write"


def _made(path: Path) -> tuple[str, ...]:
    """The directories that we made. Where our file is there, and that is forgotten, the one that no package has."""
    said = _recall()
    if said is None:
        return (str(path.parent),) if path.is_file() else ()
    return said.made


def _recall() -> _Remembered | None:
    """What is remembered; what cannot be read was written by nobody of us."""
    said = memory.recall(_MEMORY)
    try:
        return _Remembered(tuple(map(str, said["made"])), str(said["content"]), str(said["mode"]))
    except (TypeError, KeyError):
        return None


def _trouble(path: Path, error: OSError) -> HostError:
    return HostError(
        f"libvirt's network hook {path} cannot be used",
        why=error.strerror or str(error),
        remedy=f"Look at it: ls -ld {path.parent} {path}",
    )
