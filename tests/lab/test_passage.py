"""Nodes on hosts with somebody else's firewall, with both of libvirt's firewall backends and real packets.

Each host is a lab of its own (passage_scene.py sets it up). Our table is loaded throughout: what a passage lets through
another program's rules is still held by ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ai_how.lab import Lab

SCENE = Path(__file__).with_name("passage_scene.py")

#: What shall work on any host. What is tried and not in it, shall not: a service of the host, and from a container.
ALL = {
    *(f"{mode}: {what}" for mode in ("nat", "route") for what in ("lease", "neighbour", "gateway", "names", "web")),
    "route: from the LAN",
}

OWN_NFTABLES = "inet filter"


class Host:
    """A lab with the scene in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def do(self, *words: str) -> Any:
        ran = self.lab.run([sys.executable, str(SCENE), *words], timeout=60)
        assert ran.returncode == 0, f"{words}: {ran.stderr}"
        return json.loads(ran.stdout)

    def sh(self, script: str) -> str:
        ran = self.lab.run(["bash", "-ec", script], timeout=60)
        assert ran.returncode == 0, f"{script}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def works(self) -> set[str]:
        """What works of all that is tried."""
        return {name for name, answer in self.do("try").items() if answer == "works"}

    def rules(self, command: str = "iptables") -> str:
        """`iptables-save` without counters and comments."""
        lines = self.sh(f"{command}-save").splitlines()
        return "\n".join(line.split(" [")[0] for line in lines if not line.startswith("#"))


@pytest.fixture(params=["iptables", "nftables"])
def host(request: pytest.FixtureRequest, nested_lab: Callable[..., Lab]) -> Host:
    """A host whose libvirt writes its rules by this backend: 9.0 of the system, 11.3."""
    root = request.getfixturevalue("new_libvirt") if request.param == "nftables" else None
    return Host(nested_lab(internet=True, libvirt_root=root))


def backend(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["host"])


def test_without_other_firewalls_all_works_and_no_passage_is_made(host: Host) -> None:
    host.do("networks")
    assert host.do("look") == {"needed": [], "passages": {}, "obstacles": []}
    assert host.works() == ALL


@pytest.mark.parametrize("first", ["networks", "docker"])
def test_nodes_reach_all_they_should_on_a_host_with_docker(
    host: Host, first: str, request: pytest.FixtureRequest
) -> None:
    for each in (first, "docker" if first == "networks" else "networks"):
        host.do(each)
    with_docker = ALL | {"container: web"}
    # libvirt's rules for iptables are in the chain that Docker lets drop; those for nftables are not heard there.
    lost = {f"{mode}: {what}" for mode in ("nat", "route") for what in ("neighbour", "web")} | {"route: from the LAN"}
    assert host.works() == (with_docker if backend(request) == "iptables" else with_docker - lost)
    assert host.do("look")["needed"] == ["DOCKER-USER"]
    before = host.rules()
    host.do("pass")
    assert host.works() == with_docker
    assert host.do("look") == {
        "needed": ["DOCKER-USER"],
        "passages": {"DOCKER-USER": ["pf-nat", "pf-route"]},
        "obstacles": [],
    }
    host.do("unpass")
    assert host.rules() == before


def test_nodes_reach_all_they_should_where_the_host_itself_is_closed_as_by_ufw(
    host: Host, request: pytest.FixtureRequest
) -> None:
    host.do("ufw")
    host.do("networks")
    works = host.works()
    if backend(request) == "iptables":
        assert works == ALL - {"nat: gateway", "route: gateway"}
    else:
        assert works == set()  # not even a lease
    before = host.rules()
    host.do("pass")
    assert host.works() == ALL
    assert set(host.do("look")["passages"]) == {"FORWARD", "INPUT"}
    host.do("unpass")
    assert host.rules() == before


def test_a_table_of_the_administrator_s_is_named_with_commands_that_open_it(host: Host) -> None:
    host.do("nft")
    host.do("networks")
    assert host.works() == set()
    found = host.do("look")
    assert found["needed"] == []
    assert [each["what"] for each in found["obstacles"]] == [
        f"the nftables chain {OWN_NFTABLES} input",
        f"the nftables chain {OWN_NFTABLES} forward",
    ]
    for each in found["obstacles"]:
        host.sh(each["remedy"])
    assert host.works() == ALL
    assert host.do("look")["obstacles"] == []
