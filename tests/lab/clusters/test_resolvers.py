"""Whole clusters on a host with a resolver of its own: `up` and `destroy` are all that is said to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.lab.resolvers import HOSTS, Host, getent, resolving_by
from tests.waiting import until

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Write = Callable[..., Path]


@pytest.fixture(params=HOSTS)
def resolving(request: pytest.FixtureRequest, libvirt_uri: str) -> Iterator[Host]:
    with resolving_by(request.param) as made:
        yield made


def known(name: str, address: str) -> bool:
    fqdn = f"{name}-controller.{name}.internal"
    return getent(fqdn) == [address, fqdn] and getent(address) == [address, fqdn]


def settings() -> dict[str, bytes]:
    """The files that anything of this could change."""
    places = (Path("/etc/NetworkManager"), Path("/etc/dnsmasq.d"), Path("/var/lib/ai-how"), Path("/etc/systemd"))
    found = (path for place in places if place.is_dir() for path in place.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in (*found, Path("/etc/resolv.conf"))}


def test_clusters_that_share_names_are_known_on_the_host_from_up_to_destroy(
    resolving: Host, write: Write, ai_how: AiHow
) -> None:
    before = settings()
    for name, subnet in (("shared-a", "10.86.0.0/24"), ("shared-b", "10.87.0.0/24"), ("alone", "10.88.0.0/24")):
        mode = "isolated" if name == "alone" else "shared_dns"
        path = write(f"{name}.yaml", name=name, nodes=1, network={"subnet": subnet, "dns_mode": mode})
        done = ai_how("up", path, "--no-wait", "--state", path.with_suffix(".json"))
        assert done.returncode == 0, done.stderr
    until(lambda: known("shared-a", "10.86.0.2") and known("shared-b", "10.87.0.2"), "both are known")
    assert not known("alone", "10.88.0.2")

    again = ai_how("up", path.with_name("shared-a.yaml"), "--no-wait", "--state", path.with_name("shared-a.json"))
    assert again.returncode == 0, again.stderr
    assert "resolver" not in again.stdout + again.stderr

    for name in ("shared-a", "alone", "shared-b"):
        done = ai_how("destroy", name, "--yes", "--state", path.with_name(f"{name}.json"))
        assert done.returncode == 0, done.stderr
        if name == "shared-a":
            until(lambda: known("shared-b", "10.87.0.2"), "the other is known")
            assert not known("shared-a", "10.86.0.2")
    assert settings() == before
