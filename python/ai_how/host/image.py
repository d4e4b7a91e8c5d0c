"""The door to base images: what the header of a qcow2 file says, and whether QEMU may reach it."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"QFI\xfb"

#: Magic, version, backing file offset and size, cluster bits, virtual size: all big-endian (QEMU, docs/interop/qcow2).
_HEADER = struct.Struct(">4sIQIIQ")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """A qcow2 image: its version, and the size in bytes that a guest sees."""

    version: int
    virtual_size: int


def read_header(data: bytes) -> ImageHeader | None:
    """The header at the beginning of an image, None where it is not qcow2."""
    if len(data) < _HEADER.size:
        return None
    magic, version, _, _, _, size = _HEADER.unpack_from(data)
    return ImageHeader(version, size) if magic == MAGIC and version in (2, 3) else None


def header_of(path: Path) -> ImageHeader | None:
    """The header of the image at `path`, None where it is not qcow2. Raises OSError where it cannot be read."""
    # Opening a pipe would wait for its other end.
    if stat.S_ISFIFO(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        return read_header(file.read(_HEADER.size))


def blocked_for(path: Path, uid: int, gid: int) -> Path | None:
    """The first directory above `path` that user `uid` with group `gid` may not pass, None where all may be passed.

    The file itself does not matter: libvirt gives it to QEMU's user while a machine runs. Raises OSError.
    """
    if uid == 0:
        return None
    for directory in reversed(path.resolve().parents):
        status = directory.stat()
        if status.st_uid == uid:
            passes = status.st_mode & stat.S_IXUSR
        elif status.st_gid == gid:
            passes = status.st_mode & stat.S_IXGRP
        else:
            passes = status.st_mode & stat.S_IXOTH
        if not passes:
            return directory
    return None
