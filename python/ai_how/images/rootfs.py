"""Puts together what the guest consists of: busybox, the drivers, the guest agent with its libraries, and `guest/`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from ai_how.errors import HostError
from ai_how.images import cpio, elf, kmod
from ai_how.images.process import run

GUEST = Path(__file__).parent / "guest"

#: In the order of their use: disk-less, a guest first needs its network card and the power button.
MODULES = ("virtio_pci", "virtio_net", "button", "evdev", "virtio_console", "virtio_rng", "virtio_blk")
#: Where the guest's own files go.
_PLACES = {
    "inittab": "etc/inittab",
    "boot": "etc/guest/boot",
    "dhcp": "etc/guest/dhcp",
    "lease": "etc/guest/lease",
    "link": "etc/guest/link",
    "agent": "etc/guest/agent",
    "power-button": "etc/acpi/PWRF/00000080",
    "shutdown": "sbin/shutdown",
    "profile": "etc/profile",
}
_LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


def entries(files: Mapping[str, bytes], busybox: bytes, applets: tuple[str, ...]) -> list[cpio.Entry]:
    """The archive's entries, from the merged `files` of all packages."""
    modules = kmod.load_order(files, MODULES)
    return [
        cpio.character_device("dev/console", 5, 1),
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "run", "tmp", "root", "var/log", "mnt")),
        cpio.symlink("var/run", "../run"),
        cpio.file("bin/busybox", busybox, executable=True),
        cpio.symlink("init", "bin/busybox"),
        *(cpio.symlink(f"bin/{name}", "busybox") for name in applets if name != "busybox"),
        *(cpio.file(place, (GUEST / name).read_bytes(), executable=True) for name, place in _PLACES.items()),
        cpio.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n"),
        cpio.file("etc/group", b"root:x:0:\n"),
        cpio.file("etc/hosts", b"127.0.0.1 localhost\n"),
        cpio.file("etc/guest/modules", "".join(f"{name}\n" for name, _ in modules).encode()),
        *(cpio.file(f"lib/modules/{name}.ko", content) for name, content in modules),
        cpio.file("bin/qemu-ga", _agent(files), executable=True),
        *libraries(_agent(files), files),
    ]


def applet_names(busybox: Path) -> tuple[str, ...]:
    """The commands this busybox has."""
    return tuple(run([str(busybox), "--list"]).decode().split())


def libraries(program: bytes, files: Mapping[str, bytes]) -> Iterator[cpio.Entry]:
    """The program loader and every shared library that `program` needs, directly or not."""
    wanted = deque([elf.dependencies(program)])
    done: set[str] = set()
    while wanted:
        needs = wanted.popleft()
        if needs.interpreter is not None:
            place = needs.interpreter.removeprefix("/")
            yield cpio.file(place, _find(place.rsplit("/", 1)[-1], files), executable=True)
        for name in needs.needed:
            if name in done or name.startswith("ld-linux"):
                continue
            done.add(name)
            content = _find(name, files)
            wanted.append(elf.dependencies(content))
            yield cpio.file(f"lib/{name}", content, executable=True)


def _agent(files: Mapping[str, bytes]) -> bytes:
    return files["usr/sbin/qemu-ga"]


def _find(library: str, files: Mapping[str, bytes]) -> bytes:
    for folder in _LIBRARY_FOLDERS:
        content = files.get(f"{folder}/{library}")
        if content is not None:
            return content
    raise HostError(
        f"no package of the micro image has {library}",
        why="the guest agent of this release needs a library that ai-how does not know about",
        remedy="Please report it, with the name and version of your system.",
    )
