"""The door to files that must survive us: written whole or not at all, locked against a second writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_how.errors import InUse, StateError


def own_cache() -> Path | None:
    """This user's cache for ai-how (XDG Base Directory Specification), None where there is none of their own.

    Under sudo HOME may be somebody else's: a file of root's in it would be in their way, and what they put there would
    be run by root.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path("~/.cache").expanduser()
        except RuntimeError:  # there is no home
            return None
    for place in (base, base.parent):
        try:
            owner = place.stat().st_uid
        except FileNotFoundError:
            continue
        except OSError:
            break
        return base / "ai-how" if owner == os.geteuid() else None
    return None


def half(path: Path) -> Path:
    """Where what is to be at `path` is written first; a kill leaves it there, for the holder of the file's lock to
    remove."""
    return path.with_name(f".{path.name}.new")


def refuse_special(path: Path) -> None:
    """Raise OSError where something is at `path` that is no plain file: a folder, a device, a pipe, a link.

    Such must not be replaced: root would take /dev/null from the whole machine.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(mode := path.lstat().st_mode) or not path.name:
            raise OSError(errno.EISDIR, "this is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "this is no plain file")


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace `path` with `text`: readers and crashes see the old content or the new. Raises OSError.

    Only for the holder of the file's lock: the name of the new file is always the same, so that a kill leaves at most
    one behind, which the next write removes. In a directory of several users it may be somebody's, or lead elsewhere:
    it is never written into.
    """
    new = half(path)
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` (made if missing, removed afterwards) against every other process.

    Raises InUse at once, naming the holder, where another process has it, and StateError where it cannot be locked. The
    kernel frees the lock when its holder dies, so no stale lock can remain.
    """
    handle = _lock(path)
    try:
        yield
    finally:
        # Removed while still held: who waits for it sees that the file is no longer the one at `path`.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _lock(path: Path) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(
                f"{path} cannot be locked",
                why=error.strerror or str(error),
                remedy="Choose another place for the state: --state PATH or AI_HOW_STATE.",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            raise InUse(
                f"{path.with_suffix('')} is in use by another ai-how",
                why=f"process {holder} holds {path}" if holder else f"another process holds {path}",
                remedy="Wait until it has ended, then run this again.",
            ) from error
        if _is_at(handle, path):
            with contextlib.suppress(OSError):  # no room: what is written under the lock says so
                os.truncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether `handle` is still the file at `path`: its last holder may have removed it."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False
