"""The door to what resolves names on this host: which program that is, and telling it of zones.

Three are known: systemd-resolved (resolvectl(1)), NetworkManager's dnsmasq (NetworkManager.conf(5), `dns`), and a plain
dnsmasq (dnsmasq(8)). The latter two read files (host/dnsmasq.py), and have to be told that these have changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from ai_how.config.terms import HostResolver
from ai_how.errors import CommandFailed, HostError
from ai_how.host import dnsmasq
from ai_how.host.dnsmasq import Daemon
from ai_how.host.process import output

#: Where NetworkManager's dnsmasq and, on every distribution known to us, the packaged dnsmasq look for more settings.
NETWORKMANAGER_FILES = Path("/etc/NetworkManager/dnsmasq.d")
DNSMASQ_FILES = Path("/etc/dnsmasq.d")

_RESOLV_CONF = Path("/etc/resolv.conf")
_NSSWITCH = Path("/etc/nsswitch.conf")
#: systemd-resolved's stub resolvers (systemd-resolved.service(8)).
_STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
_RESOLVED_STATE = "/run/systemd/resolve/"
#: Where nss-resolve(8) asks.
_RESOLVED_SOCKET = Path("/run/systemd/resolve/io.systemd.Resolve")
_LINK = re.compile(r"Link \d+ \((?P<name>\S+)\):(?P<words>.*)")


@dataclass(frozen=True, slots=True)
class Detected:
    """What resolves names on this host, None where it is nothing that we can tell of zones; `why` says how we know."""

    manager: HostResolver | None
    why: str


@dataclass(frozen=True, slots=True)
class Clues:
    """What can be seen of it: the text of resolv.conf(5) and the file that this is in the end, whether programs ask
    systemd-resolved before they read it (nss-resolve(8)), and the host's dnsmasqs."""

    resolv_conf: str
    target: str = str(_RESOLV_CONF)
    nss_resolve: bool = False
    daemons: tuple[Daemon, ...] = ()


def detect() -> Detected:
    """What resolves names on this host."""
    return judge(look())


def look() -> Clues:
    """What can be seen of it. Nothing needs root, but for telling a container's dnsmasq from the host's."""
    return Clues(
        resolv_conf=_text(_RESOLV_CONF),
        target=os.path.realpath(_RESOLV_CONF),
        nss_resolve=_asks_resolved(_text(_NSSWITCH)) and _RESOLVED_SOCKET.exists(),
        daemons=dnsmasq.daemons(),
    )


def judge(clues: Clues) -> Detected:
    """The program that answers the first nameserver of resolv.conf, which is the one that all programs ask first."""
    servers = _nameservers(clues.resolv_conf)
    first = servers[0] if servers else "127.0.0.1"  # resolv.conf(5): without any, the local machine is asked
    named = f"/etc/resolv.conf names {first}"
    if first in _STUBS:
        return Detected(HostResolver.SYSTEMD_RESOLVED, f"{named}, systemd-resolved")
    if clues.nss_resolve:
        return Detected(HostResolver.SYSTEMD_RESOLVED, "/etc/nsswitch.conf has systemd-resolved asked first")
    if clues.target.startswith(_RESOLVED_STATE):
        return Detected(None, f"/etc/resolv.conf is {clues.target}: programs ask {first}, and not systemd-resolved")
    if not _is_local(first):
        return Detected(None, f"{named}: programs ask that server, and no resolver on this host")
    hosts = [each for each in clues.daemons if not each.is_libvirts]
    for manager, directory in (
        (HostResolver.NETWORKMANAGER, NETWORKMANAGER_FILES),
        (HostResolver.DNSMASQ, DNSMASQ_FILES),
    ):
        for each in hosts:
            if str(directory) in each.directories:
                return Detected(manager, f"{named}, and a dnsmasq that reads {directory} runs (process {each.pid})")
    if hosts:
        return Detected(None, f"{named}, and the dnsmasq that runs (process {hosts[0].pid}) reads no {DNSMASQ_FILES}")
    return Detected(None, f"{named}, and what answers there is neither systemd-resolved nor dnsmasq")


def first_nameserver() -> IPv4Address | None:
    """Whom programs on this host ask first, where that is an IPv4 address."""
    for each in _nameservers(_text(_RESOLV_CONF))[:1]:
        with contextlib.suppress(ValueError):
            return IPv4Address(each)
    return None


def unknown(why: str) -> HostError:
    """The error for a host whose resolver we cannot tell of zones."""
    known = ", ".join(each for each in HostResolver if each not in (HostResolver.AUTO, HostResolver.NONE))
    return HostError(
        "this host's resolver cannot be told of the clusters' names",
        why=why,
        remedy=f"Set network.host_resolver to the one that runs here ({known}), or to none: "
        "then nodes know each other's names, and the host does not.",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _nameservers(resolv_conf: str) -> list[str]:
    lines = (line.split() for line in resolv_conf.splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def _is_local(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _asks_resolved(nsswitch: str) -> bool:
    for line in nsswitch.splitlines():
        database, _, services = line.partition("#")[0].partition(":")
        if database.strip() == "hosts":
            words = services.split()
            return "resolve" in words and ("dns" not in words or words.index("resolve") < words.index("dns"))
    return False


# systemd-resolved


@dataclass(frozen=True, slots=True)
class Link:
    """What systemd-resolved asks on a link: `servers` for what ends in one of `domains`, `~` for a zone alone."""

    servers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


def links() -> dict[str, Link]:
    """What systemd-resolved has for each link. Everybody may ask. Raises CommandFailed where it does not answer."""
    servers, domains = (read_links(output(["resolvectl", "--no-pager", each])) for each in ("dns", "domain"))
    return {name: Link(words, domains.get(name, ())) for name, words in servers.items()}


def read_links(text: str) -> dict[str, tuple[str, ...]]:
    """Understands `resolvectl dns` and `resolvectl domain`: the words of each link. Long lists go on in lines that
    begin with a space."""
    found: dict[str, tuple[str, ...]] = {}
    name = None
    for line in text.splitlines():
        if seen := _LINK.fullmatch(line):
            name = seen["name"]
            found[name] = tuple(seen["words"].split())
        elif name is not None and line.startswith(" "):
            found[name] += tuple(line.split())
        else:
            name = None
    return found


def set_link(bridge: str, server: IPv4Address, zones: Sequence[str]) -> None:
    """Have systemd-resolved ask `server` on `bridge` for `zones` and nothing else. Raises CommandFailed."""
    remedy = "Look at it: systemctl status systemd-resolved; resolvectl status"
    for words in (
        ("dns", bridge, str(server)),
        ("domain", bridge, *(f"~{zone}" for zone in zones)),
        ("default-route", bridge, "false"),
        ("llmnr", bridge, "no"),
        ("mdns", bridge, "no"),
        # Our zones are not signed, and dnsmasq does not speak TLS; the host may demand either everywhere.
        ("dnssec", bridge, "no"),
        ("dnsovertls", bridge, "no"),
    ):
        output(["resolvectl", *words], remedy=remedy, changes_host=True)


def revert_link(bridge: str) -> None:
    """Have systemd-resolved forget what `set_link` said. Raises CommandFailed where it knows it and does not."""
    try:
        output(["resolvectl", "revert", bridge], changes_host=True)
    except CommandFailed:
        try:
            known = links()
        except CommandFailed:
            return  # it does not run, or is not installed any more: there is nothing to forget
        if known.get(bridge, Link()) != Link():
            raise


# NetworkManager and dnsmasq: told by files, then to read them


def reload_networkmanager() -> None:
    """Have NetworkManager start its dnsmasq anew, which reads its files only then (nmcli(1)). Raises CommandFailed."""
    remedy = "Look at it: systemctl status NetworkManager"
    output(["nmcli", "general", "reload", "dns-full"], remedy=remedy, changes_host=True)


def networkmanager_runs() -> bool:
    """Whether NetworkManager answers."""
    try:
        return output(["nmcli", "--terse", "--fields", "RUNNING", "general"]).strip() == "running"
    except CommandFailed:
        return False


def hosts_dnsmasq() -> Daemon | None:
    """The host's own dnsmasq that reads DNSMASQ_FILES, None where none runs."""
    found = (each for each in dnsmasq.daemons() if not each.is_libvirts)
    return next((each for each in found if str(DNSMASQ_FILES) in each.directories), None)


def restart_of_dnsmasq() -> tuple[str, ...]:
    """The command that restarts the host's dnsmasq, which reads its files only then. Raises HostError."""
    found = choose_restart(
        systemd=Path("/run/systemd/system").is_dir(), script=os.access("/etc/init.d/dnsmasq", os.X_OK)
    )
    if found is None:
        raise HostError(
            "the host's dnsmasq cannot be restarted",
            why="neither systemd nor /etc/init.d/dnsmasq is here, and it reads its files only at its start",
            remedy="Set network.host_resolver: none, and put a line server=/ZONE/GATEWAY into its settings yourself.",
        )
    return found


def choose_restart(*, systemd: bool, script: bool) -> tuple[str, ...] | None:
    """What restarts dnsmasq where systemd is process 1, or where there is a script for it."""
    if systemd:
        return ("systemctl", "restart", "dnsmasq.service")
    return ("/etc/init.d/dnsmasq", "restart") if script else None


def restart_dnsmasq(command: Sequence[str]) -> None:
    """Restart the host's dnsmasq by `command` (restart_of_dnsmasq). Raises CommandFailed."""
    output(command, timeout=60.0, remedy="Look at it: systemctl status dnsmasq; dnsmasq --test")
