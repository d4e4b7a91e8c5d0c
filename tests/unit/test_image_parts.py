"""The parts of the image builder: the cpio archive, ELF and module dependencies, and what apt says."""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.images import cpio, elf, kmod, packages

ARCHIVE = [
    cpio.file("etc/guest/boot", b"#!/bin/sh\n", executable=True),
    cpio.file("etc/odd", b"12345"),
    cpio.symlink("init", "bin/busybox"),
    cpio.character_device("dev/console", 5, 1),
]


def read_newc(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """An independent reading of the format: name → mode, content, device."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        _, mode, uid, gid, _, _, size, _, _, major, minor, length, _ = (
            int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)
        )
        assert (uid, gid) == (0, 0)
        name = data[at + 110 : at + 110 + length - 1].decode()
        at += 110 + length + -(110 + length) % 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at : at + size], (major, minor))
        at += size + -size % 4


def test_archive_holds_files_links_devices_and_the_folders_above_them() -> None:
    found = read_newc(cpio.archive(ARCHIVE))
    assert found["etc/guest/boot"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["etc/odd"] == (stat.S_IFREG | 0o644, b"12345", (0, 0))
    assert found["init"] == (stat.S_IFLNK | 0o777, b"bin/busybox", (0, 0))
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert {name for name, (mode, *_) in found.items() if stat.S_ISDIR(mode)} == {"dev", "etc", "etc/guest"}


def test_archive_names_a_folder_before_what_is_in_it() -> None:
    names = list(read_newc(cpio.archive(ARCHIVE)))
    assert names.index("etc") < names.index("etc/guest") < names.index("etc/guest/boot")


def test_equal_entries_in_another_order_give_the_same_archive() -> None:
    assert cpio.archive(ARCHIVE) == cpio.archive(reversed(ARCHIVE))


@pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox to unpack with")
def test_another_program_unpacks_the_archive(tmp_path: Path) -> None:
    entries = [entry for entry in ARCHIVE if not stat.S_ISCHR(entry.mode)]
    subprocess.run(
        ["busybox", "cpio", "-id"], input=cpio.archive(entries), cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "etc/odd").read_bytes() == b"12345"
    assert (tmp_path / "etc/guest/boot").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "init").readlink() == Path("bin/busybox")


def elf_file(needed: list[bytes]) -> bytes:
    """A 64-bit ELF with one segment, an interpreter and DT_NEEDED entries."""
    table = b"\0" + b"\0".join(needed) + b"\0/lib64/loader\0"
    offsets = [table.index(name) for name in needed]
    headers, base = 64 + 3 * 56, 0x1000
    strings = headers + 16 * (len(needed) + 2)
    dynamic = b"".join(struct.pack("<QQ", 1, offset) for offset in offsets)
    dynamic += struct.pack("<QQ", 5, base + strings) + struct.pack("<QQ", 0, 0)
    size = strings + len(table)

    def segment(kind: int, start: int, length: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 4, start, base + start, base + start, length, length, 8)

    interpreter = strings + table.index(b"/lib64/loader")
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3)
    head = head.ljust(64, b"\0")
    return (
        head + segment(1, 0, size) + segment(2, headers, len(dynamic)) + segment(3, interpreter, 14) + dynamic + table
    )


def test_elf_tells_loader_and_libraries_in_order() -> None:
    found = elf.dependencies(elf_file([b"libglib-2.0.so.0", b"libc.so.6"]))
    assert found == elf.Dependencies("/lib64/loader", ("libglib-2.0.so.0", "libc.so.6"))


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01"])
def test_what_is_not_a_whole_elf_file_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        elf.dependencies(data)


def module(*needs: str) -> bytes:
    return b"\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0retpoline=Y\0"


def test_modules_are_loaded_after_what_they_depend_on_and_built_in_ones_not_at_all() -> None:
    tree = "lib/modules/6.1/kernel"
    files = {
        f"{tree}/net/virtio_net.ko": module("net-failover", "virtio"),
        f"{tree}/net/net_failover.ko.xz": lzma.compress(module()),
        f"{tree}/virtio/virtio.ko": module("virtio_ring"),
        f"{tree}/virtio/virtio_ring.ko": module(),
        f"{tree}/unused.ko": module(),
        "lib/modules/6.1/modules.builtin": b"kernel/drivers/acpi/button.ko\n",
    }
    order = kmod.load_order(files, ["virtio", "button", "virtio_net"])
    assert [name for name, _ in order] == ["virtio_ring", "virtio", "net_failover", "virtio_net"]
    assert dict(order)["net_failover"] == module()


def test_kernel_without_a_needed_module_is_named() -> None:
    with pytest.raises(HostError, match="no module virtio_net"):
        kmod.load_order({"lib/modules/6.1/modules.builtin": b""}, ["virtio_net"])


CLOSURE = """\
linux-image-cloud-amd64
  Depends: linux-image-6.1.0-56-cloud-amd64
linux-image-6.1.0-56-cloud-amd64
  Depends: kmod
kmod
<initramfs-tools>
busybox-static
qemu-guest-agent
  Depends: libglib2.0-0
libglib2.0-0
libglib2.0-0t64
libc6
perl-base
"""


def test_only_packages_whose_files_the_image_uses_are_chosen() -> None:
    assert packages.choose(CLOSURE.splitlines()) == {
        "linux-image-6.1.0-56-cloud-amd64",
        "busybox-static",
        "qemu-guest-agent",
        "libglib2.0-0",
        "libglib2.0-0t64",
        "libc6",
    }


def test_package_lines_of_apt_are_understood_with_and_without_checksum() -> None:
    text = (
        "'http://mirror.invalid/q/qemu-guest-agent_7.2%2bdfsg_amd64.deb' qemu-guest-agent_1%3a7.2+dfsg_amd64.deb "
        f"346272 SHA256:{'f' * 64}\n'file:/srv/busybox-static_1_amd64.deb' busybox-static_1_amd64.deb 928188 \n"
    )
    assert packages.read_uris(text) == (
        packages.Package("busybox-static", "busybox-static_1_amd64.deb", 928188, ""),
        packages.Package("qemu-guest-agent", "qemu-guest-agent_1%3a7.2+dfsg_amd64.deb", 346272, "f" * 64),
    )


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("ID=debian\nVERSION_ID=12\n", "linux-image-cloud-amd64"),
        ('ID=ubuntu\nID_LIKE="debian"\n', "linux-image-virtual"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "linux-image-virtual"),
        ('ID="fedora"\n', None),
        ("", None),
    ],
)
def test_kernel_package_follows_the_distribution(text: str, kernel: str | None) -> None:
    assert packages.kernel_for(text) == kernel


def test_file_of_another_size_or_checksum_is_not_intact(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    good = packages.Package("a", "a.deb", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert not packages.is_intact(path, good)
    path.write_bytes(b"abd")
    assert not packages.is_intact(path, good)
    path.write_bytes(b"ab")
    assert not packages.is_intact(path, good)
    path.write_bytes(b"abc")
    assert packages.is_intact(path, good)
