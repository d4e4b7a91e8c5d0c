"""The door to the kernel's settings, below /proc/sys (sysctl(8))."""

from __future__ import annotations

from pathlib import Path

from ai_how.errors import HostError

_ROOT = Path("/proc/sys")


def path_of(name: str) -> Path:
    """Where the setting `name`, with dots, is read and written."""
    return _ROOT / name.replace(".", "/")


def read(name: str) -> str:
    """The present value; empty where this kernel has no such setting, or nobody may read it."""
    try:
        return path_of(name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def write(name: str, value: str) -> None:
    """Set it until the next boot. Raises HostError."""
    try:
        path_of(name).write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        raise HostError(
            f"the kernel's setting {name} cannot be set to {value}",
            why=error.strerror or str(error),
            remedy=f"Look at it: sysctl {name}",
        ) from error
