"""Files of ours among the settings of other programs, which read them when they are told to.

A file says in its first line that it is ours. Until its reader was told, a second line says that it is not read yet:
whoever looks after a crash sees a difference, and tells the reader again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.files import half, write_atomically

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


def lines_of(path: Path) -> tuple[str, ...]:
    """The same of a file that need not be there; what a kill left half-written beside it counts as not read yet."""
    lines = read_lines(path) or ()
    return (UNREAD, *lines) if half(path).exists() else lines


def file_of(directory: Path, name: str, suffix: str) -> Path:
    """Our file for `name` in `directory`."""
    return directory / f"{_PREFIX}{name}.{suffix}"


def ours(directory: Path, suffix: str) -> dict[str, tuple[str, ...]]:
    """Our files `ai-how-NAME.suffix` in `directory`: NAME → the lines. Raises HostError where they cannot be read.

    What a kill left half-written counts as not read yet.
    """
    found: dict[str, tuple[str, ...]] = {}
    for cut in directory.glob(f".{_PREFIX}*.{suffix}.new"):
        found[cut.name.removeprefix(f".{_PREFIX}").removesuffix(f".{suffix}.new")] = (UNREAD,)
    for whole in directory.glob(f"{_PREFIX}*.{suffix}"):
        if read_lines(whole) is not None:
            found[whole.name.removeprefix(_PREFIX).removesuffix(f".{suffix}")] = lines_of(whole)
    return found


def tell(files: Mapping[Path, Iterable[str]], reader: Callable[[], object]) -> None:
    """Write `files` (path → lines), and have `reader` read them. Raises HostError. May be called again after a kill."""
    contents = {path: list(lines) for path, lines in files.items()}
    for path, lines in contents.items():
        _write(path, [MARK + ".", UNREAD, *lines])
    reader()
    for path, lines in contents.items():
        _write(path, [MARK + ".", *lines])


def untell(paths: Iterable[Path], reader: Callable[[], object]) -> None:
    """Remove our files at `paths`, and have `reader` read what is left. Raises HostError.

    Emptied before they are removed: after a kill in between they are still there, and found.
    """
    paths = list(paths)
    there = [path for path in paths if read_lines(path) is not None]
    for path in there:
        _write(path, [MARK + ".", UNREAD])
    if there:
        reader()
    for path in (*there, *map(half, paths)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _trouble(path, error) from error


def _write(path: Path, lines: Iterable[str]) -> None:
    try:
        # Everybody's to read: dnsmasq is no longer root when it reads again.
        write_atomically(path, "".join(f"{line}\n" for line in lines), mode=0o644)
    except OSError as error:
        raise _trouble(path, error) from error


def _trouble(path: Path, error: OSError) -> HostError:
    return HostError(f"{path} cannot be used", why=error.strerror or str(error), remedy=f"Look at it: ls -ld {path}*")
