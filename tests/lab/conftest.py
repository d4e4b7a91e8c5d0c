"""What tests in a lab share. They run inside one, with the pretend internet: see tests/conftest.py."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import host_view
from tests.fetched import LIBVIRT, fetched
from tests.host_view import HostView, differences, left, use_networks_once, without_pid_files

from ai_how import lab
from ai_how.lab import INTERNET, Lab, LabSpec

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
    """The lab's libvirt, to which a network has been added and removed once."""
    use_networks_once()
    return "qemu:///system"


@pytest.fixture(scope="session")
def internet() -> lab.Internet:
    """The addresses and names of the lab's pretend internet."""
    return INTERNET


@pytest.fixture
def look_at_host(libvirt_uri: str) -> Callable[[], HostView]:
    """Everything ai-how and labs could leave behind on the host (which is the lab the tests run in)."""
    return host_view.look_at_host


@pytest.fixture
def clean_host(look_at_host: Callable[[], HostView]) -> Iterator[None]:
    """Fail the test if it leaves the host otherwise than it was."""

    def look() -> HostView:
        return without_pid_files(look_at_host())

    before = look()
    yield
    assert left(before, look) == []


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


@pytest.fixture
def compare() -> Callable[[HostView, HostView], list[str]]:
    """The differences of two looks at the host, one line each."""
    return differences
