"""The host as tests see it: all that ai-how and labs could leave behind on it, to be compared before and after.

The host is the lab that the tests run in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

#: What one look at the host shows: the name of a part → its lines.
HostView = dict[str, list[str]]

_FILES = ("/etc", "/run", "/var/lib/ai-how", "/var/lib/libvirt")
_ASKED = {
    "links": ["ip", "-o", "-d", "link", "show"],
    "addresses": ["ip", "-o", "addr", "show"],
    "routes": ["ip", "route", "show", "table", "all"],
    "routes (IPv6)": ["ip", "-6", "route", "show", "table", "all"],
    "rules": ["ip", "rule", "show"],
    "namespaces": ["ip", "netns", "list"],
    "nft": ["nft", "--stateless", "list", "ruleset"],
    "iptables": ["iptables-save"],
}
_LIBVIRT = {
    "libvirt networks": ["virsh", "net-list", "--all", "--name"],
    "libvirt domains": ["virsh", "list", "--all", "--name"],
    "libvirt pools": ["virsh", "pool-list", "--all", "--name"],
}

#: Seconds within which all has settled, on a busy machine: processes end a moment after libvirt has said so.
SETTLES_WITHIN = 30.0

#: What moves by itself.
_COUNTING = re.compile(
    r" \[\d+:\d+\]$|  *(expires|valid_lft|preferred_lft) \d+sec|(hello|tcn|topology_change|gc)_timer +[\d.]+"
)

_NETWORK = """
<network><name>{name}</name><forward mode='nat'/><bridge name='{name}' stp='off' delay='0'/>
  <ip address='{subnet}.1' netmask='255.255.255.0'><dhcp>
    <range start='{subnet}.10' end='{subnet}.99'/></dhcp></ip></network>
"""
_SOMEBODYS_NETWORK = "<network><name>first</name><ip address='10.255.255.1' netmask='255.255.255.0'/></network>"
_SOMEBODYS_POOL = "<pool type='dir'><name>first</name><target><path>/var/lib/libvirt/first</path></target></pool>"
_SOMEBODYS_MACHINE = "<domain type='qemu'><name>first</name><memory>1024</memory><os><type>hvm</type></os></domain>"


def use_networks_once() -> None:
    """Add a network to libvirt and remove it.

    libvirt keeps its own chains and directories after the first network; a comparison of before and after starts from
    there.
    """
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "first.xml"
        network.write_text(_NETWORK.format(name="first", subnet="10.255.255"))
        for argv in (["net-create", str(network)], ["net-destroy", "first"], ["capabilities"]):
            subprocess.run(["virsh", *argv], check=True, capture_output=True)


def define_everything_once() -> None:
    """The same for what libvirt keeps after the first definition of a network, a pool and a machine."""
    with tempfile.TemporaryDirectory() as folder:
        definition = Path(folder) / "first.xml"
        for prefix, text in (("net-", _SOMEBODYS_NETWORK), ("pool-", _SOMEBODYS_POOL), ("", _SOMEBODYS_MACHINE)):
            definition.write_text(text)
            for words in (["define", str(definition)], ["autostart", "first"], ["undefine", "first"]):
                subprocess.run(["virsh", f"{prefix}{words[0]}", *words[1:]], check=True, capture_output=True)


def look_at_host(parts: Collection[str] = ()) -> HostView:
    """All parts as they are now, or only those named.

    Of processes those that are there from its beginning to its end: one that is just ending is not compared.
    """

    def wanted(name: str) -> bool:
        return not parts or name in parts

    at_first = set(_processes()) if wanted("processes") else set()
    view = {name: _lines(argv) for name, argv in (_ASKED | _LIBVIRT).items() if wanted(name)}
    looks: dict[str, Callable[[], Iterable[str]]]
    looks = {"settings": _settings, "files": _all_files, "processes": lambda: at_first.intersection(_processes())}
    return view | {name: sorted(look()) for name, look in looks.items() if wanted(name)}


def without_pid_files(view: HostView) -> HostView:
    """The same but for the PID files of networks' dnsmasq, which libvirt leaves where it stops a network."""
    return {**view, "files": [each for each in view["files"] if not each.startswith("/run/libvirt/network/")]}


def differences(before: HostView, after: HostView) -> list[str]:
    """What differs between two looks, one line each."""
    return [
        f"{name}: {sign} {line}"
        for name in before
        for sign, here, there in (("-", before[name], after[name]), ("+", after[name], before[name]))
        for line in sorted(set(here) - set(there))
    ]


def left(before: HostView, look: Callable[[], HostView] = look_at_host) -> list[str]:
    """What differs from `before` once all has settled; empty as soon as nothing does."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while (found := differences(before, look())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _lines(argv: list[str]) -> list[str]:
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return [_COUNTING.sub("", line) for line in done.stdout.splitlines() if line and not line.startswith("#")]


def _settings() -> Iterator[str]:
    for path in _below("/proc/sys/net"):
        if path != "/proc/sys/net/netfilter/nf_conntrack_count" and not Path(path).is_dir():
            with contextlib.suppress(OSError):  # some can only be written, some only be read by their owner
                yield f"{path}={Path(path).read_text().strip()}"


def _all_files() -> Iterator[str]:
    for top in _FILES:
        for path in _below(top):
            with contextlib.suppress(FileNotFoundError):  # it went while we looked
                yield _file(path)


def _file(path: str) -> str:
    seen = os.lstat(path)
    content = ""
    if stat.S_ISREG(seen.st_mode):
        # A namespace pinned to a file (/run/netns) has no content.
        pinned = path.startswith("/run/") and os.path.ismount(path)
        version = (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        content = "a namespace" if pinned else _digest(path, *version)
    elif stat.S_ISLNK(seen.st_mode):
        content = str(Path(path).readlink())
    return f"{path} {stat.filemode(seen.st_mode)} {seen.st_uid}:{seen.st_gid} {content}"


def _below(top: str) -> Iterator[str]:
    """The path itself and everything below it, links not followed."""
    yield from [top] if os.path.lexists(top) else []
    for folder, folders, files in os.walk(top):
        yield from (f"{folder}/{name}" for name in (*folders, *files))


@lru_cache(maxsize=16384)
def _digest(path: str, *_: int) -> str:
    """Of a file's content, asked once for each of its versions (its change time cannot be set back)."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _processes() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                argv = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{entry.name} {argv}"
