"""Writes the bootable disk: a FAT file system without a partition table, SYSLINUX, the kernel and its initramfs.

mtools and `syslinux --install` work on the image file itself, so neither root nor a loop mount is needed.
"""

from __future__ import annotations

from pathlib import Path

from ai_how.images.process import run
from ai_how.images.rootfs import GUEST

_MIB = 1024 * 1024
_SECTOR = 512


def write_disk(kernel: bytes, initramfs: bytes, scratch: Path) -> Path:
    """A qcow2 in `scratch` which boots `kernel` with `initramfs` on a PC BIOS.

    The qcow2 is not compressed: both contents already are, and a guest's boot loader, which reads less than a cluster
    at a time, would have each cluster uncompressed several times (measured: the lease comes up to 1 s later).
    """
    for name, content in (("vmlinuz", kernel), ("initrd", initramfs)):
        (scratch / name).write_bytes(content)
    raw = scratch / "disk.raw"
    # A quarter of a MiB for SYSLINUX, the FAT and the directory, then up to whole MiB.
    mebibytes = -(-(len(kernel) + len(initramfs) + _MIB // 4) // _MIB) + 1
    with raw.open("wb") as file:
        file.truncate(mebibytes * _MIB)
    sectors = mebibytes * _MIB // _SECTOR
    run(["mformat", "-i", str(raw), "-T", str(sectors), "-h", "16", "-s", "63", "-c", "8", "-v", "AI-HOW", "::"])
    sources = [str(path) for path in (GUEST / "syslinux.cfg", scratch / "vmlinuz", scratch / "initrd")]
    run(["mcopy", "-i", str(raw), *sources, "::"])
    run(["syslinux", "--install", str(raw)])
    image = scratch / "disk.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)])
    return image


def lz4(data: bytes) -> bytes:
    """`data` in the legacy LZ4 format, the one the kernel unpacks an initramfs from quickest."""
    return run(["lz4", "-l", "-9", "-c", "-q"], data=data)
