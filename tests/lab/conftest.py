"""What tests in a lab share. They run inside one, with the pretend internet: see tests/conftest.py."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fetched import LIBVIRT, fetched

from ai_how import lab
from ai_how.lab import INTERNET, Lab, LabSpec

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
_NETWORK = """
<network><name>{name}</name><forward mode='nat'/><bridge name='{name}' stp='off' delay='0'/>
  <ip address='{subnet}.1' netmask='255.255.255.0'><dhcp>
    <range start='{subnet}.10' end='{subnet}.99'/></dhcp></ip></network>
"""


_FORGIVING_TC = """#!/bin/sh
case " $* " in
*" action csum "*) {real} "$@" 2>/dev/null || true ;;
*) exec {real} "$@" ;;
esac
"""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if lab.inside():
        return
    problem = lab.unavailable()
    reason = f"not in a lab: {problem or 'the pytest run was not moved into one'}"
    if "lab" in os.environ.get("AI_HOW_REQUIRE", "").replace(",", " ").split():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def libvirt_uri() -> str:
    """The lab's libvirt, to which a network has been added and removed once.

    libvirt keeps its own chains and directories after the first network; a test that compares the host before and
    after starts from there.
    """
    network = Path("/run/ai-how-lab/first-network.xml")
    network.write_text(_NETWORK.format(name="first", subnet="10.255.255"))
    for argv in (["net-create", str(network)], ["net-destroy", "first"], ["capabilities"]):
        subprocess.run(["virsh", *argv], check=True, capture_output=True)
    network.unlink()
    return "qemu:///system"


@pytest.fixture(scope="session")
def internet() -> lab.Internet:
    """The addresses and names of the lab's pretend internet."""
    return INTERNET


@pytest.fixture
def look_at_host(libvirt_uri: str) -> Callable[[], HostView]:
    """Everything ai-how and labs could leave behind on the host (which is the lab the tests run in)."""
    return _look_at_host


@pytest.fixture
def clean_host(look_at_host: Callable[[], HostView]) -> Iterator[None]:
    """Fail the test if it leaves the host otherwise than it was."""
    before = look_at_host()
    yield
    left = differences(before, look_at_host())
    # libvirt leaves the PID files of stopped networks.
    assert [line for line in left if "/run/libvirt/network/" not in line] == []


@pytest.fixture
def nested_lab() -> Iterator[Callable[..., Lab]]:
    """Opens labs inside this one, `nested_lab(internet=True)`, and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def open_one(*, internet: bool = False, libvirt_root: Path | None = None) -> Lab:
            # Each other libvirt would leave its own entry in the cache.
            cache = lab.cache_directory() if libvirt_root is None else None
            spec = LabSpec(internet=internet, libvirt_root=libvirt_root, cache=cache)
            return stack.enter_context(lab.open_lab(spec))

        yield open_one


@pytest.fixture(scope="session")
def new_libvirt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libvirt 11.3 with its firewall backend for nftables, unpacked: `nested_lab(libvirt_root=new_libvirt)`."""
    root = tmp_path_factory.mktemp("libvirt")
    shutil.copytree(fetched(LIBVIRT, suite="bookworm-backports") / "usr", root / "usr", symlinks=True)
    (root / "etc/libvirt").mkdir(parents=True)
    # Debian's build takes iptables first where nothing is said.
    (root / "etc/libvirt/network.conf").write_text('firewall_backend = "nftables"\n')
    # This backend has tc mend the checksums of DHCP, for guests of old; small kernels cannot, and libvirt gives up.
    real = root / "usr/libexec/ai-how-lab/tc"
    real.parent.mkdir(parents=True)
    shutil.copy(Path(shutil.which("tc", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "/usr/sbin/tc"), real)
    tc = root / "usr/sbin/tc"
    tc.write_text(_FORGIVING_TC.format(real=f"/{real.relative_to(root)}"))
    tc.chmod(0o755)
    return root


def _look_at_host() -> HostView:
    view = {name: _lines(argv) for name, argv in (_ASKED | _LIBVIRT).items()}
    view["settings"] = sorted(_settings())
    view["files"] = sorted(line for top in _FILES for line in _files(Path(top)))
    view["processes"] = sorted(_processes())
    return view


def differences(before: HostView, after: HostView) -> list[str]:
    return [
        f"{name}: {sign} {line}"
        for name in before
        for sign, here, there in (("-", before[name], after[name]), ("+", after[name], before[name]))
        for line in sorted(set(here) - set(there))
    ]


@pytest.fixture
def compare() -> Callable[[HostView, HostView], list[str]]:
    """The differences of two looks at the host, one line each."""
    return differences


def _lines(argv: list[str]) -> list[str]:
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    counters = re.compile(r" \[\d+:\d+\]$|  *(expires|valid_lft|preferred_lft) \d+sec")
    return [counters.sub("", line) for line in done.stdout.splitlines() if line and not line.startswith("#")]


def _settings() -> Iterator[str]:
    for path in Path("/proc/sys/net").rglob("*"):
        if path.is_file() and path.name != "nf_conntrack_count":
            with contextlib.suppress(OSError):  # some can only be written, some only be read by their owner
                yield f"{path}={path.read_text().strip()}"


def _files(top: Path) -> Iterator[str]:
    for path in [top, *top.rglob("*")]:
        seen = path.lstat()
        content = ""
        if stat.S_ISREG(seen.st_mode):
            # A namespace pinned to a file (/run/netns) has no content.
            pinned = os.path.ismount(path)
            content = "a namespace" if pinned else hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(seen.st_mode):
            content = str(path.readlink())
        yield f"{path} {stat.filemode(seen.st_mode)} {seen.st_uid}:{seen.st_gid} {content}"


def _processes() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                argv = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{entry.name} {argv}"
