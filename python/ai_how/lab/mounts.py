"""The lab's view of the file system, built by process 1 in a mount namespace of its own.

There is no chroot and no new root: the root of the mount namespace stays the caller's, so whatever re-enters the
namespace (`nsenter`, QEMU, a libvirt helper) sees the same tree. What must not be shared is covered by a private
mount. Nothing is ever written below such a mount, hence no file of the host changes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.process import output

_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE = 0x1, 0x20, 0x1000, 0x4000
_NOSUID, _NODEV, _NOEXEC = 0x2, 0x4, 0x8

#: Directories of which the lab has its own, empty at first. Of /etc it has its own copy.
PRIVATE_DIRECTORIES = (
    Path("/run"),
    Path("/dev/shm"),  # noqa: S108 - not a temporary file: the directory itself is covered
    Path("/var/lib/libvirt"),
    Path("/var/log/libvirt"),
    Path("/var/cache/libvirt"),
    Path("/var/lib/ai-how"),
)
#: The lab's own small things.
LAB_DIRECTORY = Path("/run/ai-how-lab")

_ETC_LIBVIRT = Path("/etc/libvirt")
#: Where the stock packet filters come from, the first that is there; networks and domains may refer to them.
_NWFILTERS = (Path("/usr/share/libvirt/nwfilter"), _ETC_LIBVIRT / "nwfilter")
#: The daemon's settings. Of the host's /etc/libvirt a lab takes over the packet filters and network.conf (which
#: firewall backend); its networks, domains, hooks and daemon settings belong to the host.
_CONFIGURATION = {
    # No cgroups, no private /dev, no other user and no log daemon: the lab itself is the fence.
    "qemu.conf": (
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\nnamespaces = []\n'
        'stdio_handler = "file"\nremember_owner = 0\n'
    ),
    "libvirtd.conf": (
        'auth_unix_rw = "none"\nunix_sock_rw_perms = "0700"\nlog_outputs = "2:file:/var/log/libvirt/libvirtd.log"\n'
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)


def build(*, nameserver: str | None, libvirt_root: Path | None) -> None:
    """Cover what must not be shared. Call once, as process 1 of new mount, PID and network namespaces."""
    if libvirt_root is not None:
        _put_libvirt_over(libvirt_root)
    for directory in PRIVATE_DIRECTORIES:
        _ensure_directory(directory)
        mount("tmpfs", directory, kind="tmpfs", flags=_NOSUID | _NODEV, data="mode=0755")
    Path("/dev/shm").chmod(0o1777)  # noqa: S108 - see above
    _protect_devices()
    for made, mode in ((LAB_DIRECTORY, 0o755), (Path("/run/lock"), 0o1777), (Path("/run/libvirt"), 0o755)):
        made.mkdir()
        made.chmod(mode)
    Path("/var/lib/libvirt/images").mkdir()
    _copy_etc(nameserver, libvirt_root)
    _mount_kernel_files()


def mount(source: str | Path, target: Path, *, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises HostError with the kernel's reason."""
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    if done != 0:
        raise HostError(
            f"the lab cannot mount {kind or source} on {target}",
            why=os.strerror(ctypes.get_errno()),
            remedy="a lab needs CAP_SYS_ADMIN; in a container, start it privileged",
        )


def _protect_devices() -> None:
    """The machine's devices are the lab's, too, and can be used; none can be made, removed or replaced."""
    devices = Path("/dev")
    mount(devices, devices, flags=_BIND | _RECURSIVE)
    mount(devices, devices, flags=_BIND | _REMOUNT | _READ_ONLY)


def _put_libvirt_over(root: Path) -> None:
    """Merge the unpacked libvirt's files over the system's. By mounts and not by LD_LIBRARY_PATH, because dnsmasq
    starts libvirt's lease helper with an empty environment."""
    pairs = [(root / "usr", Path("/usr"))]
    if (root / "lib").is_dir() and Path("/lib").is_symlink():
        pairs.append((root / "lib", Path("/usr/lib")))
    for upper, lower in pairs:
        for text in (str(upper), str(lower)):
            if any(character in text for character in ":,\\"):
                raise HostError(f"{text} cannot be used in a lab", why="its name has a colon, comma or backslash in it")
        mount("overlay", lower, kind="overlay", flags=_READ_ONLY, data=f"lowerdir={upper}:{lower}")
    # Its plug-ins replace the system's as a whole: libvirtd refuses to start on one of another version.
    for plugins in [*root.glob("usr/lib/libvirt"), *root.glob("usr/lib/*/libvirt")]:
        mount(plugins, Path("/") / plugins.relative_to(root), flags=_BIND)


def _ensure_directory(path: Path) -> None:
    """Make `path` exist in the lab only: its parent is rebuilt as a private directory with all entries bound in."""
    if path.is_dir():
        return
    parent = path.parent
    _ensure_directory(parent)
    staging = Path("/run")  # private and empty at this point: it is the first directory covered
    for made in (shown := staging / "shown", kept := staging / "kept"):
        made.mkdir()
    mount(parent, kept, flags=_BIND | _RECURSIVE)
    mount("tmpfs", shown, kind="tmpfs", flags=_NOSUID | _NODEV, data="mode=0755")
    for entry in kept.iterdir():
        copy = shown / entry.name
        if entry.is_symlink():
            copy.symlink_to(entry.readlink())
            continue
        if entry.is_dir():
            copy.mkdir()
        else:
            copy.touch()
        mount(entry, copy, flags=_BIND | _RECURSIVE)
    (shown / path.name).mkdir()
    mount(shown, parent, flags=_BIND | _RECURSIVE)
    _detach(shown)
    _detach(kept)
    shown.rmdir()
    kept.rmdir()


def _detach(target: Path) -> None:
    detach = 2
    if _libc.umount2(os.fsencode(target), detach) != 0:
        raise HostError(f"the lab cannot unmount {target}", why=os.strerror(ctypes.get_errno()))


def _copy_etc(nameserver: str | None, libvirt_root: Path | None) -> None:
    """Put a copy over /etc, with a resolv.conf and a libvirt configuration of the lab's own."""
    etc = LAB_DIRECTORY / "etc"
    etc.mkdir()
    output(["cp", "--archive", "/etc/.", str(etc)])
    shutil.rmtree(etc / "libvirt", ignore_errors=True)
    _configure_libvirt(etc / "libvirt", libvirt_root)
    resolver = etc / "resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.write_text(f"nameserver {nameserver}\n" if nameserver else "# this lab has no internet\n")
    mount(etc, Path("/etc"), flags=_BIND)


def _configure_libvirt(own: Path, libvirt_root: Path | None) -> None:
    own.mkdir()
    filters = next((place for place in _NWFILTERS if place.is_dir()), None)
    if filters is not None:
        shutil.copytree(filters, own / "nwfilter", ignore=shutil.ignore_patterns("autostart"))
    backend = Path(f"{libvirt_root or ''}{_ETC_LIBVIRT}") / "network.conf"
    if backend.is_file():
        shutil.copyfile(backend, own / "network.conf")
    for name, text in _CONFIGURATION.items():
        (own / name).write_text(text)


def _mount_kernel_files() -> None:
    """Fresh /proc and /sys, which show this lab's processes and links; of the kernel's settings only those of the
    network, which are the lab's own, can be written."""
    settings, network = Path("/proc/sys"), Path("/proc/sys/net")
    mount("proc", Path("/proc"), kind="proc", flags=_NOSUID | _NODEV | _NOEXEC)
    mount(network, network, flags=_BIND)
    mount(settings, settings, flags=_BIND | _RECURSIVE)
    mount(settings, settings, flags=_BIND | _REMOUNT | _READ_ONLY | _NOSUID | _NODEV | _NOEXEC)
    # Without the host's control groups below it, so that nothing of the lab appears there.
    mount("sysfs", Path("/sys"), kind="sysfs", flags=_NOSUID | _NODEV | _NOEXEC)
