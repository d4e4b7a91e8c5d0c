"""Files of ours among the settings of other programs, which read them when they are told to.

A file says in its first line that it is ours. Until its reader was told, a second line says that it is not read yet:
whoever looks after a crash sees a difference, and tells the reader again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.files import write_atomically

#: The beginning of every file of ours.
MARK = "# Written by ai-how, which overwrites it"
UNREAD = "# Not read yet."

_PREFIX = "ai-how-"


def read_lines(path: Path) -> tuple[str, ...] | None:
    """The lines of our file at `path` below the mark, None where there is no file of ours. Raises HostError.

    What was emptied, or cut off within the mark, is ours by its name, and not read yet.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _trouble(path, error) from error
    if MARK.startswith(text.strip("\0 \t\r\n")):  # some file systems leave zeros behind when the power fails
        return (UNREAD,)
    return tuple(text.splitlines()[1:]) if text.startswith(MARK) else None


def file_of(directory: Path, name: str, suffix: str) -> Path:
    """Our file for `name` in `directory`."""
    return directory / f"{_PREFIX}{name}.{suffix}"


def ours(directory: Path, suffix: str) -> dict[str, tuple[str, ...]]:
    """Our files `ai-how-NAME.suffix` in `directory`: NAME → the lines. Raises HostError where they cannot be read.

    What a kill left half-written counts as not read yet.
    """
    found: dict[str, tuple[str, ...]] = {}
    for half in directory.glob(f".{_PREFIX}*.{suffix}.new"):
        found[half.name.removeprefix(f".{_PREFIX}").removesuffix(f".{suffix}.new")] = (UNREAD,)
    for whole in directory.glob(f"{_PREFIX}*.{suffix}"):
        if (lines := read_lines(whole)) is not None:
            found[whole.name.removeprefix(_PREFIX).removesuffix(f".{suffix}")] = lines
    return found


def tell(path: Path, lines: Iterable[str], reader: Callable[[], object]) -> None:
    """Write `lines` to `path`, and have `reader` read them. Raises HostError. May be called again after a kill."""
    content = list(lines)
    _write(path, [MARK + ".", UNREAD, *content])
    reader()
    _write(path, [MARK + ".", *content])


def untell(path: Path, reader: Callable[[], object]) -> None:
    """Remove our file `path`, and have `reader` read what is left. Raises HostError.

    Emptied before it is removed: after a kill in between it is still there, and found.
    """
    if read_lines(path) is not None:
        _write(path, [MARK + ".", UNREAD])
        reader()
        path.unlink(missing_ok=True)
    path.with_name(f".{path.name}.new").unlink(missing_ok=True)


def _write(path: Path, lines: Iterable[str]) -> None:
    try:
        # Everybody's to read: dnsmasq is no longer root when it reads again.
        write_atomically(path, "".join(f"{line}\n" for line in lines), mode=0o644)
    except OSError as error:
        raise _trouble(path, error) from error


def _trouble(path: Path, error: OSError) -> HostError:
    return HostError(f"{path} cannot be used", why=error.strerror or str(error), remedy=f"Look at it: ls -ld {path}*")
