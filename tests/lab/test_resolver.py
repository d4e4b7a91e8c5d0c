"""The host's own resolver, each of the three we know, really run: it resolves the names of all clusters that share
them, and afterwards is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.lab.naming import Up, cluster, counting, up
from tests.lab.resolvers import HOSTS, LOST, Host, getent, resolving_by, told
from tests.waiting import until

from ai_how.config.terms import HostResolver
from ai_how.errors import HostError
from ai_how.host import memory
from ai_how.host import resolver as host
from ai_how.lab import Internet
from ai_how.providers import resolver as routes


@pytest.fixture(scope="module", params=HOSTS)
def resolving(request: pytest.FixtureRequest, libvirt_uri: str) -> Iterator[Host]:
    """A host on which the named program resolves names."""
    with resolving_by(request.param) as made:
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


KNOWN = {
    "host-a-controller.host-a.internal": "10.81.0.2",
    "host-a-compute-01.host-a.internal": "10.81.0.10",
    "host-b-controller.host-b.internal": "10.82.0.66",
}


def until_known(resolving: Host) -> None:
    """Some start anew when they are told, and some ask on a bridge only when its port has a carrier."""
    until(
        lambda: all(resolving.asks(name) == ("NOERROR", [KNOWN[name]]) for name in KNOWN),
        "it knows the names",
        passing=LOST,
    )


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
        until_known(resolving)
        for name, address in KNOWN.items():
            assert resolving.asks(address) == ("NOERROR", [f"{name}."])
            assert getent(name) == [address, name]
            assert getent(address) == [address, name]
        # A cluster that shares nothing stays unknown, and the rest of the world as it was.
        assert resolving.asks(stranger)[1] != ["10.83.0.2"]
        assert resolving.asks(internet.name) == web
        assert getent(internet.name) == [str(internet.web), internet.name]
        assert routes.observe(pair.libvirt, "") == want
    assert routes.observe(pair.libvirt, "") == []
    until(
        lambda: all(resolving.asks(name) == resolving.unknown for name in KNOWN), "it has forgotten them", passing=LOST
    )
    until(lambda: resolving.asks(internet.name) == web, "it answers again", passing=LOST)
    for name, address in KNOWN.items():
        assert resolving.asks(name)[1] != [address]


def test_unknown_names_of_our_zones_are_denied_and_asked_of_nobody_outside(
    resolving: Host, pair: Up, internet: Internet
) -> None:
    with told(pair, resolving.manager), counting() as leaving:
        until_known(resolving)
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
        until(
            lambda: resolving.asks("10.81.0.2")[1] == ["host-a-controller.host-a.internal."],
            "the first answers",
            passing=LOST,
        )
        name = "host-b-controller.host-b.internal"
        until(lambda: resolving.asks(name) == resolving.unknown, "it has forgotten the second", passing=LOST)
        less = replace(first, zones=tuple(each for each in first.zones if "arpa" not in each))
        routes.change(pair.libvirt, first, less)
        assert routes.observe(pair.libvirt, "") == [less]
        routes.change(pair.libvirt, less, first)
        routes.create(pair.libvirt, second)
        assert routes.observe(pair.libvirt, "") == [first, second]
        until(
            lambda: resolving.asks("10.82.0.66")[1] == ["host-b-controller.host-b.internal."],
            "the second answers",
            passing=LOST,
        )


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
