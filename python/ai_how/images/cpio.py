"""Writes a cpio archive in the `newc` format, the one the kernel unpacks as its initramfs.

Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst. Writing it here needs neither root (device
nodes are only bytes in an archive) nor a staging tree, and the result depends on the entries alone.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive, owned by root. `data` is the content, or a link's target."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, *, executable: bool = False) -> Entry:
    return Entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Entry:
    return Entry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive's bytes: parents first, each directory once, equal for equal entries in any order."""
    wanted = {entry.name: entry for entry in entries}
    for name in list(wanted):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            wanted.setdefault(parent, directory(parent))
    out = bytearray()
    for inode, name in enumerate(sorted(wanted), start=1):
        _append(out, wanted[name], inode)
    _append(out, Entry("TRAILER!!!", 0), 0)
    return bytes(out)


def _append(out: bytearray, entry: Entry, inode: int) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    # inode, mode, uid, gid, links, mtime, size, dev major and minor, rdev major and minor, name length, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields)
    out += name + bytes(-(110 + len(name)) % 4)
    out += entry.data + bytes(-len(entry.data) % 4)
