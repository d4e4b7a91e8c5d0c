"""systemd-resolved, really run, forgets a network that is stopped; libvirt's hook tells it again at the next start."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.lab.naming import cluster, up
from tests.lab.resolvers import LOST, resolving_by, systemd_resolved, told
from tests.waiting import until

from ai_how.compile.hook import HOOK, LOG
from ai_how.providers import firewall, hook
from ai_how.resources.firewall import FirewallTable

NAME, ADDRESS = "host-a-controller.host-a.internal", "10.81.0.2"


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextmanager
def installed(program: str) -> Iterator[None]:
    """The hook looks where packages install programs. Those of the lab are the machine's own, so: an overlay."""
    over, work = Path("/run/over"), Path("/run/over-work")
    for made in (over, work):
        made.mkdir()
    wrapper = over / program
    found, libraries = shutil.which(program), os.environ["LD_LIBRARY_PATH"]
    wrapper.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {found} "$@"\n')
    for path in (over, wrapper):
        path.chmod(0o755)
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/usr/bin,upperdir={over},workdir={work}", "/usr/bin")
    try:
        yield
    finally:
        run("umount", "--lazy", "/usr/bin")
        run("rm", "-r", str(over), str(work))


@pytest.fixture
def restart(libvirt_uri: str) -> Callable[[], None]:
    """The network stops and starts, and its machine is attached again."""

    def network() -> None:
        run("virsh", "net-destroy", "host-a-network")
        run("virsh", "net-start", "host-a-network")
        run("ip", "link", "set", "of-host-a", "master", "br-host-a", "up")

    return network


def test_resolver_knows_the_names_again_after_a_network_was_stopped_and_started(
    restart: Callable[[], None],
) -> None:
    with (
        resolving_by(systemd_resolved.__name__) as host,
        installed("resolvectl"),
        up(cluster("host-a", "10.81.0.0/24")) as clusters,
    ):
        known = ("NOERROR", [ADDRESS])
        with told(clusters, host.manager):
            until(lambda: host.asks(NAME) == known, "it knows the name", passing=LOST)
            restart()
            until(lambda: host.asks(NAME) == host.unknown, "it has forgotten it", passing=LOST)
        with told(clusters, host.manager):
            until(lambda: host.asks(NAME) == known, "it knows the name", passing=LOST)
            # Without its rules the hook would not let it start.
            rules = FirewallTable((), (), intact=True)
            firewall.create(clusters.libvirt, rules)
            hook.create(clusters.libvirt, HOOK)
            try:
                restart()
                until(lambda: host.asks(NAME) == known, "it knows the name again", passing=LOST)
                assert host.asks(ADDRESS) == ("NOERROR", [f"{NAME}."])
                assert not Path(LOG).exists()
            finally:
                hook.remove(clusters.libvirt, HOOK)
                firewall.remove(clusters.libvirt, rules)
