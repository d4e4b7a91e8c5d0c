"""The host's own resolver, each of the three we know, really run: it resolves the names of all clusters that share
them, and afterwards is as it was.

The programs come from Debian's packages (tests/fetched.py), and run without systemd. NetworkManager keeps its state in
/var/lib, which is covered for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from tests.fetched import RESOLVERS, fetched
from tests.lab.naming import Up, cluster, counting, up

from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.terms import HostResolver
from ai_how.errors import HostError
from ai_how.host import memory
from ai_how.host import resolver as host
from ai_how.lab import Internet
from ai_how.providers import resolver as routes
from ai_how.resources.resolver import ResolverRoute

DEADLINE = 10.0

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

    def asks(self, question: str) -> tuple[str, list[str]]:
        """What the resolver answers for a name, or for an address."""
        if question.replace(".", "").isdigit():
            query = dns.message.make_query(IPv4Address(question).reverse_pointer, "PTR")
        else:
            query = dns.message.make_query(question, "A")
        said = dns.query.udp(query, self.address, timeout=2)
        return dns.rcode.to_text(said.rcode()), [data.to_text() for answer in said.answer for data in answer]


def getent(word: str) -> list[str]:
    """What every program on the host gets for a name or an address: by nsswitch.conf(5) and resolv.conf(5)."""
    return subprocess.run(["getent", "hosts", word], check=False, capture_output=True, text=True).stdout.split()


def until(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        # What is asked while a daemon starts anew may be lost.
        with contextlib.suppress(dns.exception.Timeout, ConnectionError):
            if true():
                return
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def succeeds(*argv: str) -> bool:
    return subprocess.run(argv, check=False, capture_output=True, timeout=20).returncode == 0


@contextlib.contextmanager
def running(*argv: str) -> Iterator[None]:
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE)


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
        until("the bus is there", Path("/run/dbus/system_bus_socket").is_socket)
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
        until("systemd-resolved answers", lambda: succeeds("resolvectl", "dns"))
        yield Host(HostResolver.SYSTEMD_RESOLVED, "127.0.0.53")
    shutil.rmtree("/run/systemd/resolve")


@contextlib.contextmanager
def networkmanager(root: Path) -> Iterator[Host]:
    for made in ("/run/nm/upper", "/run/nm/work", "/etc/NetworkManager/dnsmasq.d"):
        Path(made).mkdir(parents=True, exist_ok=True)
    Path("/etc/NetworkManager/NetworkManager.conf").write_text(_NETWORKMANAGER)
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    with bus(), running("unshare", "--mount", "sh", "-c", _COVERED):
        until("NetworkManager answers", host.networkmanager_runs)
        host.reload_networkmanager()
        until("its dnsmasq answers", lambda: answers("127.0.0.1"))
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
    until("dnsmasq answers", lambda: answers("127.0.0.1"))
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


HOSTS = {each.__name__: each for each in (systemd_resolved, networkmanager, plain_dnsmasq)}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Where the packages are, with their programs on the PATH."""
    tree = fetched(RESOLVERS)
    libraries = tree / "usr/lib" / "x86_64-linux-gnu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tree}/usr/bin:{tree}/usr/sbin:{tree}/bin:{os.environ['PATH']}")
        shared = [libraries, libraries / "systemd", tree / "lib/x86_64-linux-gnu", tree / "lib/systemd"]
        patch.setenv("LD_LIBRARY_PATH", ":".join(map(str, shared)))
        yield tree


@pytest.fixture(scope="module", params=HOSTS)
def resolving(request: pytest.FixtureRequest, root: Path, libvirt_uri: str) -> Iterator[Host]:
    """A host on which the named program resolves names."""
    parts = ("resolv.conf", "passwd", "group", "systemd", "NetworkManager", "init.d", "default", "dnsmasq.conf")
    with own_etc(*parts, "dnsmasq.d"), HOSTS[request.param](root) as made:
        yield made


@pytest.fixture(scope="module")
def pair(resolving: Host) -> Iterator[Up]:
    """Two clusters that share their names, one in a part of a /24, and one that does not."""
    with up(
        cluster("host-a", "10.81.0.0/24"),
        cluster("host-b", "10.82.0.64/26"),
        cluster("host-c", "10.83.0.0/24", mode="isolated"),
    ) as made:
        yield made


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


KNOWN = {
    "host-a-controller.host-a.internal": "10.81.0.2",
    "host-a-compute-01.host-a.internal": "10.81.0.10",
    "host-b-controller.host-b.internal": "10.82.0.66",
}


def test_its_resolver_is_recognised(resolving: Host) -> None:
    seen = host.detect()
    assert (seen.manager, bool(seen.why)) == (resolving.manager, True)


def test_host_resolves_names_and_addresses_of_all_clusters_that_share_them(
    resolving: Host, pair: Up, internet: Internet
) -> None:
    web = ("NOERROR", [str(internet.web)])
    stranger = "host-c-controller.host-c.internal"
    for name, address in KNOWN.items():
        assert resolving.asks(name)[1] != [address]
    with told(pair, resolving.manager) as want:
        assert [each.network for each in want] == ["host-a-network", "host-b-network"]
        until("it answers again", lambda: resolving.asks(internet.name) == web)
        for name, address in KNOWN.items():
            assert resolving.asks(name) == ("NOERROR", [address])
            assert resolving.asks(address) == ("NOERROR", [f"{name}."])
            assert getent(name) == [address, name]
            assert getent(address) == [address, name]
        # A cluster that shares nothing stays unknown, and the rest of the world as it was.
        assert resolving.asks(stranger)[1] != ["10.83.0.2"]
        assert getent(internet.name) == [str(internet.web), internet.name]
        assert routes.observe(pair.libvirt, "") == want
    assert routes.observe(pair.libvirt, "") == []
    until("it answers again", lambda: resolving.asks(internet.name) == web)
    for name, address in KNOWN.items():
        assert resolving.asks(name)[1] != [address]


def test_unknown_names_of_our_zones_are_denied_and_asked_of_nobody_outside(
    resolving: Host, pair: Up, internet: Internet
) -> None:
    with told(pair, resolving.manager), counting() as leaving:
        until("it answers again", lambda: resolving.asks(internet.name))
        leaving()
        for name in ("nobody.host-a.internal", "a.b.host-b.internal", "10.81.0.77", "10.82.0.77"):
            assert resolving.asks(name) == ("NXDOMAIN", [])
        assert leaving() == 0
        assert resolving.asks(f"new.{internet.name}") == ("NOERROR", [str(internet.web)])
        assert leaving() > 0


def test_afterwards_every_file_is_as_it_was(
    resolving: Host, pair: Up, look_at_host: Callable[[], dict[str, list[str]]]
) -> None:
    def files() -> list[str]:
        # The daemons' own state is theirs: a PID file, an empty directory.
        return [line for line in look_at_host()["files"] if not line.startswith("/run/")]

    before = files()
    with told(pair, resolving.manager):
        assert files() != before
    assert files() == before
    assert list(memory.DIRECTORY.iterdir()) == []


def test_a_cluster_that_comes_goes_or_changes_leaves_the_others_known(resolving: Host, pair: Up) -> None:
    with told(pair, resolving.manager) as (first, second):
        routes.remove(pair.libvirt, second)
        assert routes.observe(pair.libvirt, "") == [first]
        until("the first answers", lambda: resolving.asks("10.81.0.2")[1] == ["host-a-controller.host-a.internal."])
        assert resolving.asks("host-b-controller.host-b.internal")[1] != ["10.82.0.66"]
        less = replace(first, zones=tuple(each for each in first.zones if "arpa" not in each))
        routes.change(pair.libvirt, first, less)
        assert routes.observe(pair.libvirt, "") == [less]
        routes.change(pair.libvirt, less, first)
        routes.create(pair.libvirt, second)
        assert routes.observe(pair.libvirt, "") == [first, second]
        until("the second answers", lambda: resolving.asks("10.82.0.66")[1] == ["host-b-controller.host-b.internal."])


def test_done_twice_is_done_once(resolving: Host, pair: Up) -> None:
    with told(pair, resolving.manager) as want:
        for each in want:
            routes.create(pair.libvirt, each)
        assert routes.observe(pair.libvirt, "") == want
        for each in want:
            routes.remove(pair.libvirt, each)
    assert routes.observe(pair.libvirt, "") == []


def test_what_another_program_was_told_is_taken_back_when_the_host_changes_over(resolving: Host, pair: Up) -> None:
    with told(pair, resolving.manager) as (first, _):
        others = [each for each in HOSTS if each != resolving.manager]
        assert others
        other = replace(first, manager=HostResolver.SYSTEMD_RESOLVED)
        if resolving.manager is HostResolver.SYSTEMD_RESOLVED:
            other = replace(first, manager=HostResolver.DNSMASQ)
        with pytest.raises(HostError):  # it does not run here; what it replaces is gone by then, and is made again
            routes.change(pair.libvirt, first, other)
        routes.remove(pair.libvirt, other)
        assert first not in routes.observe(pair.libvirt, "")
        routes.create(pair.libvirt, first)
        assert first in routes.observe(pair.libvirt, "")
