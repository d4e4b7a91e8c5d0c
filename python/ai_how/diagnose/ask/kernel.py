"""What the kernel, its processes and a few files say. Everybody may ask most of it; what takes root says so."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ai_how.diagnose.ask.libvirt import SEARCH
from ai_how.errors import AiHowError, HostError
from ai_how.host import daemon, dnsmasq, machine, memory
from ai_how.host.process import output

_PROC = Path("/proc")
_SYS = Path("/proc/sys")
_LEASES = Path("/var/lib/libvirt/dnsmasq")
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_HOOK = Path("/etc/libvirt/hooks/network.d/ai-how")
_HOOK_UNKNOWN = Path("/run/ai-how-hook.unknown")
_INSTALL = "Install it: apt-get install iproute2"

#: What machines and networks are made of, and what we ask with.
PROGRAMS = ("dnsmasq", "nft", "iptables", "libvirtd", "virtqemud", "virtnetworkd", "virsh", "resolvectl")


def host() -> dict[str, Any]:
    """Who asks, on what, and which programs there are."""
    programs = {name: _program(name) for name in PROGRAMS}
    versions = {"kernel": platform.release(), "system": _system()}
    if programs["dnsmasq"]:
        with contextlib.suppress(AiHowError, IndexError):  # its version is worth a line, and no more
            versions["dnsmasq"] = output([programs["dnsmasq"], "--version"], timeout=2).split("\n")[0].split()[2]
    return {
        "now": time.time(),
        "root": memory.is_root(),
        "user": os.geteuid(),
        "groups": sorted(filter(None, map(_group, {os.getegid(), *os.getgroups()}))),
        "programs": programs,
        "versions": versions,
        "kvm_device": machine.device_trouble(),
        "cpu_flags": _cpu_flags(),
    }


def links() -> Any:
    """`ip -json -details address show`: links, their kinds, masters and addresses."""
    return json.loads(output(["ip", "-json", "-details", "address", "show"], remedy=_INSTALL) or "[]")


def routes() -> Any:
    """`ip -json route show table all`, IPv4."""
    return json.loads(output(["ip", "-json", "-4", "route", "show", "table", "all"], remedy=_INSTALL) or "[]")


def neighbours() -> Any:
    """`ip -json neighbour show`, IPv4: who is known on which link."""
    return json.loads(output(["ip", "-json", "-4", "neighbour", "show"], remedy=_INSTALL) or "[]")


def settings() -> dict[str, str]:
    """The kernel settings that decide what becomes of packets, by their name with slashes (sysctl(8))."""
    names = ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"]
    names += ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"]
    for link in _listed(_SYS / "net/ipv4/conf"):
        names += [f"net/ipv4/conf/{link}/rp_filter", f"net/ipv4/conf/{link}/forwarding"]
    found = {}
    for name in names:
        with contextlib.suppress(OSError):  # not in this kernel, or the link has gone
            found[name] = (_SYS / name).read_text(encoding="ascii").strip()
    return found


def processes() -> list[dict[str, Any]]:
    """The dnsmasq processes of libvirt networks that live in our network namespace, and the ages of QEMUs, in s."""
    ours = _namespace(_PROC / "self")
    uptime = float((_PROC / "uptime").read_text().split()[0])
    found: list[dict[str, Any]] = []
    for name in _listed(_PROC):
        if not name.isdigit():
            continue
        process = _PROC / name
        try:
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            program = Path(words[0]).name
            if program != "dnsmasq" and "qemu" not in program:
                continue
            fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if program == "dnsmasq":
            config = next((re.search(r"dnsmasq/(.+)\.conf$", each) for each in words if "--conf-file=" in each), None)
            if config and _namespace(process) in (ours, None):
                found.append({"pid": int(name), "network": config[1], "stopped": fields[0] in ("T", "t")})
        else:
            guest = next((re.search(r"guest=([^,]+)", each) for each in words if each.startswith("guest=")), None)
            if guest:
                age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
                found.append({"pid": int(name), "machine": guest[1], "age": round(age, 1)})
    return found


def listeners() -> list[str]:
    """`ss` of who listens at DNS's and DHCP's ports, a line each."""
    text = output(
        ["ss", "-H", "-l", "-n", "-t", "-u", "-p", "( sport = :53 or sport = :67 )"], timeout=5, remedy=_INSTALL
    )
    return text.splitlines()


def still_runs(line: str) -> bool:
    """Whether the program of such a line is there; true where it is not said."""
    said = re.search(r"pid=(\d+)", line)
    return said is None or (_PROC / said[1]).exists()


def leases() -> dict[str, str]:
    """What libvirt's dnsmasqs have written of their leases, by bridge: JSON, empty where there are none."""
    found = {}
    for path in sorted(_LEASES.glob("*.status")):
        with contextlib.suppress(FileNotFoundError):  # its network was stopped meanwhile
            found[path.stem] = path.read_text(errors="replace")
    return found


def resolver() -> dict[str, list[str]]:
    """The name servers of /etc/resolv.conf (resolv.conf(5)), and those that resolvers on this host ask in turn."""
    asks = _name_servers(_RESOLVED)
    for each in dnsmasq.daemons():
        if not each.is_libvirts:
            asks += _servers_of(each)
    return {"servers": _name_servers(Path("/etc/resolv.conf")), "asks": list(dict.fromkeys(asks))}


def _name_servers(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]


def _servers_of(process: dnsmasq.Daemon) -> list[str]:
    """The servers that a dnsmasq asks what no other setting sends elsewhere (`server=ADDRESS`)."""
    lines = [each.removeprefix("--") for each in process.arguments]
    folders = [Path(each) for each in process.directories]
    for path in (
        dnsmasq.settings_file(process.arguments),
        *(file for each in folders for file in sorted(each.glob("*"))),
    ):
        with contextlib.suppress(OSError):
            lines += path.read_text(errors="replace").splitlines()
    found = (line.partition("server=")[2].strip() for line in lines if line.strip().startswith("server="))
    return [each for each in found if each and not each.startswith("/")]


def reverse_path_drops() -> int:
    """How many packets the kernel has dropped in this namespace because their way back was another (rp_filter)."""
    lines = [line.split() for line in (_PROC / "net/netstat").read_text(encoding="ascii").splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if "IPReversePathFilter" in names:
            return int(values[names.index("IPReversePathFilter")])
    return 0


def resolves(name: str, address: str) -> dict[str, Any]:
    """Whether programs of this host find `address` by `name` (getent(1), which asks as they do)."""
    getent = shutil.which("getent", path=SEARCH)
    if getent is None:
        raise HostError("whether this host resolves names was not looked at", why="there is no getent")
    environment = {**os.environ, "RES_OPTIONS": "timeout:1 attempts:2"}
    argv = [getent, "ahostsv4", name]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=4, check=False, env=environment)
        found = sorted({line.split()[0] for line in ran.stdout.splitlines() if line.split()})
    except subprocess.TimeoutExpired:
        found = []
    why = "" if address in found else f"{name} is {', '.join(found) or 'not found'}, and should be {address}"
    return {"answered": not why, "ms": 0.0, "why": why}


def remembered() -> dict[str, Any]:
    """What ai-how remembers of this host, and its hook."""
    files = {}
    for name in _listed(memory.DIRECTORY):
        if not name.startswith(".") and (text := memory.recall_text(name)) is not None:
            files[name] = text
    try:
        hook: dict[str, Any] = {
            "text": _HOOK.read_text(errors="replace"),
            "mode": f"{_HOOK.stat().st_mode & 0o7777:04o}",
        }
    except (FileNotFoundError, NotADirectoryError):
        hook = {"text": None, "mode": ""}
    hosts = {path.name[len("ai-how-") : -len(".hosts")]: _lines(path) for path in _LEASES.glob("ai-how-*.hosts")}
    return {"files": files, "hook": hook, "unknown_to_libvirt": _unknown_to_libvirt(), "dnsmasq": hosts}


def _lines(path: Path) -> str:
    """A file of ours that dnsmasq reads, without our remarks in it (host/told.py)."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines if not line.startswith("#"))


def _unknown_to_libvirt() -> bool:
    """Whether the daemon that runs has not seen the hook yet (providers/hook.py)."""
    try:
        deaf = _HOOK_UNKNOWN.read_text(encoding="ascii").strip()
    except OSError:
        return False
    pid = daemon.find()
    return pid is not None and daemon.identity(pid) == deaf


def emulators(paths: Mapping[str, str]) -> dict[str, str]:
    """The emulators at `paths` (machine → path) that cannot be run, and why."""
    found = {}
    for path in {each for each in paths.values() if each}:
        if not Path(path).exists():
            found[path] = "it is not there"
        elif not Path(path).is_file() or not os.access(path, os.X_OK):
            found[path] = "it cannot be run"
    return found


def _program(name: str) -> str:
    """Its path, empty where there is none that can be run: a device in its place is none."""
    path = shutil.which(name, path=SEARCH)
    return path if path and Path(path).is_file() else ""


def _system() -> str:
    with contextlib.suppress(OSError, KeyError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _cpu_flags() -> list[str]:
    text = machine.CPUINFO.read_text(errors="replace")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return sorted({"vmx", "svm", "hypervisor"} & set(flags))


def _namespace(process: Path) -> str | None:
    try:
        return str((process / "ns/net").readlink())
    except OSError:
        return None  # only root may read those of others


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError:
        return []
