"""The door to disk images: what the header of a qcow2 file says, and whether QEMU may reach it."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"QFI\xfb"

#: Magic, version, backing file offset and size, cluster bits, virtual size: all big-endian (QEMU, docs/interop/qcow2).
_HEADER = struct.Struct(">4sIQIIQ")

#: Bytes of an image that are read: QEMU puts the backing file's name, of at most 1023, behind some 500 of the header.
_BEGINNING = 4096


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """A qcow2 image: its version, the size in bytes that a guest sees, and the name of the image it stands on.

    `backing` is as the file has it, empty where there is none or it stands further behind than was read.
    """

    version: int
    virtual_size: int
    backing: str = ""


def read_header(data: bytes) -> ImageHeader | None:
    """The header at the beginning of an image, None where it is not qcow2."""
    if len(data) < _HEADER.size:
        return None
    magic, version, place, length, _, size = _HEADER.unpack_from(data)
    if magic != MAGIC or version not in (2, 3):
        return None
    whole = 0 < place <= len(data) - length
    return ImageHeader(version, size, os.fsdecode(data[place : place + length]) if whole else "")


def header_of(path: Path) -> ImageHeader | None:
    """The header of the image at `path`, None where it is not qcow2. Raises OSError where it cannot be read."""
    # Else opening a pipe would wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return read_header(os.read(descriptor, _BEGINNING))
    finally:
        os.close(descriptor)


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
