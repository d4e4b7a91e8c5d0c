"""Hosts with a resolver of their own, for tests: each of the three programs we know, really run.

They come from Debian's packages (tests/fetched.py) and run without systemd. NetworkManager keeps its state in /var/lib,
which is covered for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest
from tests.fetched import RESOLVERS, fetched
from tests.lab.naming import Up
from tests.waiting import COMES_WITHIN, until

from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.terms import HostResolver
from ai_how.host import resolver as host
from ai_how.lab import INTERNET
from ai_how.providers import resolver as routes
from ai_how.resources.resolver import ResolverRoute

#: What may pass where a resolver is asked: what is asked while its daemon starts anew may be lost.
LOST = (dns.exception.Timeout, ConnectionError)

#: What they and the tests change below /etc.
_PARTS = (
    "resolv.conf",
    "passwd",
    "group",
    "systemd",
    "NetworkManager",
    "init.d",
    "default",
    "dnsmasq.conf",
    "dnsmasq.d",
)

_BUS = """<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
"""
_RESOLVED = "[Resolve]\nDNS=8.8.8.8\n"
_NETWORKMANAGER = """
[main]
plugins=keyfile
dns=dnsmasq
rc-manager=unmanaged
auth-polkit=false
[keyfile]
unmanaged-devices=*
[device]
managed=false
[global-dns-domain-*]
servers=8.8.8.8
"""
_BESIDE = "[main]\nplugins=keyfile\ndns=systemd-resolved\nrc-manager=unmanaged\nauth-polkit=false\nno-auto-default=*\n"
#: It waits for udev to have seen a link, unless /sys is read only as in a container.
_WITHOUT_UDEV = "mount -o remount,bind,ro /sys && "
_COVERED = (
    "mount -t overlay overlay -o lowerdir=/var/lib,upperdir=/run/nm/upper,workdir=/run/nm/work /var/lib "
    "&& mkdir -p /var/lib/NetworkManager && exec NetworkManager --no-daemon"
)
#: With what a careful administrator sets: private addresses are neither asked for outside nor believed.
_DNSMASQ = """
listen-address=127.0.0.1
bind-interfaces
no-resolv
server=8.8.8.8
bogus-priv
stop-dns-rebind
rebind-domain-ok=/internet.test/
"""


@dataclass(frozen=True)
class Host:
    """A host with a resolver of its own at `address`."""

    manager: HostResolver
    address: str

    @property
    def unknown(self) -> tuple[str, list[str]]:
        """What it answers for a name of a cluster that it was not told of: it asks outside, where every name is known.
        The dnsmasq here does not believe that address (stop-dns-rebind)."""
        return "NOERROR", [] if self.manager is HostResolver.DNSMASQ else [str(INTERNET.web)]

    def asks(self, question: str) -> tuple[str, list[str]]:
        """What the resolver answers for a name, or for an address."""
        if question.replace(".", "").isdigit():
            query = dns.message.make_query(IPv4Address(question).reverse_pointer, "PTR")
        else:
            query = dns.message.make_query(question, "A")
        said = _asked(query, self.address)
        return dns.rcode.to_text(said.rcode()), [data.to_text() for answer in said.answer for data in answer]


def _asked(query: dns.message.Message, server: str) -> dns.message.Message:
    """The answer to the first or the second question, as every program asks (resolv.conf(5))."""
    try:
        return dns.query.udp(query, server, timeout=5)
    except dns.exception.Timeout:
        return dns.query.udp(query, server, timeout=5)


def getent(word: str) -> list[str]:
    """What every program on the host gets for a name or an address: by nsswitch.conf(5) and resolv.conf(5)."""
    return subprocess.run(["getent", "hosts", word], check=False, capture_output=True, text=True).stdout.split()


def succeeds(*argv: str) -> bool:
    return subprocess.run(argv, check=False, capture_output=True, timeout=COMES_WITHIN).returncode == 0


@contextlib.contextmanager
def running(*argv: str) -> Iterator[None]:
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(COMES_WITHIN)


@contextlib.contextmanager
def own_etc(*parts: str) -> Iterator[None]:
    """These files and directories below /etc are as before afterwards. (The whole of /etc is the lab's copy.)"""
    kept = Path("/run/kept-etc")
    for part in parts:
        if (path := Path("/etc", part)).exists():
            (kept / part).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--archive", str(path), str(kept / part)], check=True)
    try:
        yield
    finally:
        for part in parts:
            path = Path("/etc", part)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if (kept / part).exists():
                subprocess.run(["cp", "--archive", str(kept / part), str(path)], check=True)
        shutil.rmtree(kept, ignore_errors=True)


def user(name: str) -> None:
    """The lab's /etc/passwd has the user that a package would have made."""
    passwd = Path("/etc/passwd")
    if f"{name}:" not in passwd.read_text():
        passwd.write_text(passwd.read_text() + f"{name}:x:65500:65534::/nonexistent:/usr/sbin/nologin\n")
        group = Path("/etc/group")
        group.write_text(group.read_text() + f"{name}:x:65500:\n")


@contextlib.contextmanager
def bus() -> Iterator[None]:
    Path("/run/dbus").mkdir(exist_ok=True)
    settings = Path("/run/bus.conf")
    settings.write_text(_BUS)
    with running("dbus-daemon", f"--config-file={settings}", "--nofork"):
        until(Path("/run/dbus/system_bus_socket").is_socket, "the bus")
        yield
    settings.unlink()
    Path("/run/dbus/system_bus_socket").unlink(missing_ok=True)


@contextlib.contextmanager
def systemd_resolved(root: Path) -> Iterator[Host]:
    user("systemd-resolve")
    Path("/run/systemd").mkdir(exist_ok=True)
    settings = Path("/etc/systemd/resolved.conf.d/lab.conf")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(_RESOLVED)
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    with bus(), running(str(root / "lib/systemd/systemd-resolved")):
        until(lambda: succeeds("resolvectl", "dns"), "systemd-resolved answers")
        yield Host(HostResolver.SYSTEMD_RESOLVED, "127.0.0.53")
    shutil.rmtree("/run/systemd/resolve")


@contextlib.contextmanager
def networkmanager(root: Path) -> Iterator[Host]:
    for made in ("/run/nm/upper", "/run/nm/work", "/etc/NetworkManager/dnsmasq.d"):
        Path(made).mkdir(parents=True, exist_ok=True)
    Path("/etc/NetworkManager/NetworkManager.conf").write_text(_NETWORKMANAGER)
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    with bus(), running("unshare", "--mount", "sh", "-c", _COVERED):
        until(host.networkmanager_runs, "NetworkManager answers")
        host.reload_networkmanager()
        until(lambda: answers("127.0.0.1"), "its dnsmasq answers")
        yield Host(HostResolver.NETWORKMANAGER, "127.0.0.1")
    for made in ("/run/nm", "/run/NetworkManager"):
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def plain_dnsmasq(root: Path) -> Iterator[Host]:
    user("dnsmasq")
    for part in ("default/dnsmasq", "dnsmasq.conf", "dnsmasq.d"):
        subprocess.run(["cp", "--recursive", str(root / "etc" / part), f"/etc/{part}"], check=True)
    script = Path("/etc/init.d/dnsmasq")
    script.parent.mkdir(exist_ok=True)
    # Debian's own, which finds the rest of its package where that was unpacked.
    text = (root / "etc/init.d/dnsmasq").read_text().replace("/usr/share/", f"{root}/usr/share/")
    script.write_text(text.replace("sleep 2", "sleep 0.1"))
    script.chmod(0o755)
    Path("/etc/dnsmasq.d/lab.conf").write_text(_DNSMASQ)
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run([script, "start"], check=True, stdout=subprocess.DEVNULL)
    until(lambda: answers("127.0.0.1"), "dnsmasq answers")
    try:
        yield Host(HostResolver.DNSMASQ, "127.0.0.1")
    finally:
        subprocess.run([script, "stop"], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree("/run/dnsmasq", ignore_errors=True)


def answers(address: str) -> bool:
    try:
        return dns.query.udp(dns.message.make_query("internet.test", "A"), address, timeout=0.3).rcode() == 0
    except (OSError, dns.exception.Timeout):
        return False


@contextlib.contextmanager
def resolved_beside_networkmanager(root: Path) -> Iterator[Host]:
    """As on most desktops: NetworkManager has a part in every link, and tells systemd-resolved of its own."""
    for made in ("/run/nm/upper", "/run/nm/work", "/etc/NetworkManager/conf.d"):
        Path(made).mkdir(parents=True, exist_ok=True)
    Path("/etc/NetworkManager/NetworkManager.conf").write_text(_BESIDE)
    with systemd_resolved(root) as made_host, running("unshare", "--mount", "sh", "-c", _WITHOUT_UDEV + _COVERED):
        until(host.networkmanager_runs, "NetworkManager answers")
        yield made_host
    for left in ("/run/nm", "/run/NetworkManager"):
        shutil.rmtree(left, ignore_errors=True)


HOSTS = {each.__name__: each for each in (systemd_resolved, networkmanager, plain_dnsmasq)}
_ALL = HOSTS | {"resolved_beside_networkmanager": resolved_beside_networkmanager}


@contextlib.contextmanager
def resolving_by(name: str) -> Iterator[Host]:
    """A host of this name above."""
    tree = fetched(RESOLVERS)
    libraries = tree / "usr/lib" / "x86_64-linux-gnu"
    shared = [libraries, libraries / "systemd", tree / "lib/x86_64-linux-gnu", tree / "lib/systemd"]
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", f"{tree}/usr/bin:{tree}/usr/sbin:{tree}/bin:{os.environ['PATH']}")
        patch.setenv("LD_LIBRARY_PATH", ":".join(map(str, shared)))
        stack.enter_context(own_etc(*_PARTS))
        yield stack.enter_context(_ALL[name](tree))


def wanted(pair: Up, manager: HostResolver) -> list[ResolverRoute]:
    around = Surroundings(resolver=manager)
    return [each for each in compile_host(pair.networks.values(), around) if isinstance(each, ResolverRoute)]


@contextlib.contextmanager
def told(pair: Up, manager: HostResolver) -> Iterator[list[ResolverRoute]]:
    want = wanted(pair, manager)
    try:
        for each in want:
            routes.create(pair.libvirt, each)
        yield want
    finally:
        for each in want:
            routes.remove(pair.libvirt, each)
