"""Nodes registered in a real Consul: kept as wanted, never mixed up with others' services, never left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.lab.consul_agent import Agent, agent, program
from tests.waiting import until

from ai_how.compile.cluster import compile_network
from ai_how.compile.dns_modes.service_discovery import registrations
from ai_how.config.load import load_mapping
from ai_how.errors import HostError, NotOurs
from ai_how.host import memory
from ai_how.host.libvirt import Libvirt
from ai_how.plan.plan import Action, make_plan
from ai_how.providers import network as networks
from ai_how.providers import registration as provider
from ai_how.providers import servers
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.registration import Registration
from ai_how.resources.servers import Servers
from ai_how.spec.cluster import Cluster
from ai_how.spec.policy import Check, Discovery
from ai_how.spec.resolve import resolve

MEMORY = memory.DIRECTORY / provider.MEMORY


@pytest.fixture(scope="module", autouse=True)
def used_libvirt(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """libvirt makes directories of its own for the first network that is defined."""
    text = "<network><name>first</name><ip address='10.255.255.1' netmask='255.255.255.0'/></network>"
    definition = tmp_path_factory.mktemp("definitions") / "first.xml"
    definition.write_text(text)
    for words in (["net-define", str(definition)], ["net-autostart", "first"], ["net-undefine", "first"]):
        subprocess.run(["virsh", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def consul(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent(tmp_path_factory.mktemp("consul")) as made:
        yield made


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    with Libvirt(libvirt_uri) as opened:
        yield opened
        for each in networks.observe_all(opened):
            if each.cluster:
                remove(opened, each)
        MEMORY.unlink(missing_ok=True)


@pytest.fixture
def consul_as_it_was(consul: Agent) -> Iterator[None]:
    """Nothing of ours stays in Consul after the test."""
    yield
    left = consul.services()
    for each in left:
        consul.call("PUT", f"/agent/service/deregister/{each}")
    assert left == {}


def made(discovery: Discovery, **fields: Any) -> Cluster:
    machine = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}
    cluster = {
        "name": "found",
        "base_image_path": "/nowhere.qcow2",
        "network": {"subnet": "10.46.0.0/24", "bridge": "br-found", "dns_mode": "service_discovery"},
        "controller": machine,
        "compute_nodes": [machine],
    }
    spec = resolve(load_mapping({"clusters": {"hpc": cluster | fields}}))
    policy = replace(spec.network.policy, discovery=discovery)
    return replace(spec, network=replace(spec.network, policy=policy))


def bring_up(libvirt: Libvirt, cluster: Cluster) -> tuple[VirtualNetwork, tuple[Registration, ...]]:
    network = compile_network(cluster, active=False)
    networks.create(libvirt, network)
    wanted = registrations(cluster)
    for each in wanted:
        provider.create(libvirt, each)
    return network, wanted


def remove(libvirt: Libvirt, network: VirtualNetwork) -> None:
    """With the files of its nodes, which go with those of its servers."""
    networks.remove(libvirt, network)
    servers.remove(libvirt, Servers(network.name, (), ()))


def ordered(found: list[Registration]) -> tuple[Registration, ...]:
    return tuple(sorted(found, key=lambda each: each.ip))


@pytest.mark.usefixtures("clean_host", "consul_as_it_was")
def test_nodes_are_registered_as_wanted_and_gone_after(consul: Agent, libvirt: Libvirt) -> None:
    cluster = made(consul.discovery(tags=("gpu",)))
    assert provider.observe(libvirt, cluster.name) == []
    network, wanted = bring_up(libvirt, cluster)
    assert [each.key for each in wanted] == ["found-controller", "found-compute-01"]
    assert ordered(provider.observe(libvirt, cluster.name)) == wanted
    assert not make_plan(wanted, provider.observe(libvirt, cluster.name))

    entry = consul.services()["ai-how:found:found-controller"]
    assert (entry["Service"], entry["Address"], entry["Port"]) == ("hpc", str(wanted[0].ip), 22)
    assert entry["Tags"] == ["gpu", "controller", "found-controller"]
    (check,) = [each for each in consul.call("GET", "/agent/checks").values() if each["ServiceID"] == entry["ID"]]
    assert (check["Type"], check["Status"]) == ("tcp", "critical")

    provider.create(libvirt, wanted[0])  # again, as after a kill half-way
    assert ordered(provider.observe(libvirt, cluster.name)) == wanted
    for each in (*wanted, *wanted):
        provider.remove(libvirt, each)
    assert provider.observe(libvirt, cluster.name) == []
    remove(libvirt, network)


@pytest.mark.usefixtures("clean_host", "consul_as_it_was")
def test_every_difference_shows_and_is_mended_in_place(consul: Agent, libvirt: Libvirt) -> None:
    network, (first, second) = bring_up(libvirt, made(consul.discovery()))
    altered: dict[str, Any] = {
        "service": "other",
        "ip": IPv4Address("10.46.0.77"),
        "tags": ("new",),
        "check": Check(port=23, interval=2, timeout=2),
    }
    for field, value in altered.items():
        changed = replace(first, **{field: value})
        (step,) = make_plan([changed, second], provider.observe(libvirt, "found")).steps
        assert (step.action, [each.field for each in step.fields]) == (Action.CHANGE, [field])
        provider.change(libvirt, first, changed)
        assert ordered(provider.observe(libvirt, "found")) == ordered([changed, second])
        provider.change(libvirt, changed, first)
        assert not make_plan([first, second], provider.observe(libvirt, "found"))

    consul.call("PUT", f"/agent/check/deregister/{first.id}")
    (step,) = make_plan([first, second], provider.observe(libvirt, "found")).steps
    assert [each.field for each in step.fields] == ["check"]
    provider.change(
        libvirt, next(each for each in provider.observe(libvirt, "found") if each.node == first.node), first
    )
    assert not make_plan([first, second], provider.observe(libvirt, "found"))

    consul.call("PUT", f"/agent/service/deregister/{second.id}")
    (step,) = make_plan([first, second], provider.observe(libvirt, "found")).steps
    assert (step.action, step.target.key) == (Action.CREATE, second.node)
    for each in (first, second):
        provider.remove(libvirt, each)
    remove(libvirt, network)


@pytest.mark.usefixtures("clean_host", "consul_as_it_was")
def test_services_of_others_are_neither_seen_nor_touched(consul: Agent, libvirt: Libvirt) -> None:
    theirs = [
        {"ID": "web", "Name": "hpc", "Address": "10.46.0.2"},
        {"ID": "ai-how:found:found-controller", "Name": "hpc", "Meta": {"ai-how-cluster": "another"}},
        {"ID": "ai-how:another:n", "Name": "hpc", "Meta": {"ai-how-cluster": "another", "ai-how-node": "n"}},
    ]
    for each in theirs:
        consul.call("PUT", "/agent/service/register", each)
    before = consul.services()
    cluster = made(consul.discovery())
    network = compile_network(cluster, active=False)
    networks.create(libvirt, network)
    first, second = registrations(cluster)
    with pytest.raises(NotOurs, match="already a service of this ID") as caught:
        provider.create(libvirt, first)
    assert f"consul services deregister -http-addr={consul.address} -id=ai-how:found:found-controller" in str(
        caught.value
    )
    provider.create(libvirt, second)
    assert provider.observe(libvirt, "found") == [second]
    for each in (first, second):  # the first, too, is undone after it failed
        provider.remove(libvirt, each)
    assert consul.services() == before
    for each in before:
        consul.call("PUT", f"/agent/service/deregister/{each}")
    remove(libvirt, network)


def test_no_consul_is_asked_for_a_cluster_without_service_discovery(libvirt: Libvirt) -> None:
    away = Discovery("hpc", "http://127.0.0.1:9")
    cluster = made(away)
    networks.create(libvirt, compile_network(cluster, active=False))
    with pytest.raises(HostError, match="nothing listens there"):
        provider.observe(libvirt, cluster.name)
    assert provider.observe(libvirt, "somebody-elses") == []
    plain = replace(cluster.network, policy=replace(cluster.network.policy, discovery=None))
    networks.create(libvirt, replace(compile_network(cluster, active=False), policy=plain.policy))
    assert provider.observe(libvirt, cluster.name) == []


@pytest.mark.usefixtures("clean_host")
def test_nodes_go_to_another_agent_and_leave_the_first(
    consul: Agent, libvirt: Libvirt, consul_as_it_was: None, tmp_path: Path
) -> None:
    with agent(tmp_path / "second", 8540) as second:
        network, wanted = bring_up(libvirt, made(consul.discovery()))
        moved = tuple(replace(each, discovery=second.discovery()) for each in wanted)
        (step, _) = make_plan(moved, provider.observe(libvirt, "found")).steps
        assert [each.field for each in step.fields] == ["discovery", "agent"]
        for have, want in zip(wanted, moved, strict=True):
            provider.change(libvirt, have, want)
        assert consul.services() == {}
        assert sorted(second.services()) == sorted(each.id for each in moved)
        for each in moved:
            provider.remove(libvirt, each)
        remove(libvirt, network)


@pytest.mark.usefixtures("clean_host", "consul_as_it_was")
@pytest.mark.parametrize("registered", [0, 1, 2])
def test_what_a_crash_left_in_consul_is_taken_back_by_the_next_run(
    consul: Agent, libvirt: Libvirt, registered: int
) -> None:
    """Cut off while registering, and the network gone: only our memory knows of the agent."""
    cluster = made(consul.discovery())
    network, wanted = bring_up(libvirt, cluster)
    for each in wanted[registered:]:
        consul.call("PUT", f"/agent/service/deregister/{each.id}")
    remove(libvirt, network)
    assert len(consul.services()) == registered
    assert MEMORY.exists()
    assert provider.settle(networks.observe_all(libvirt)) == ()
    assert consul.services() == {}
    assert not MEMORY.exists()
    assert provider.settle(networks.observe_all(libvirt)) == ()


@pytest.mark.usefixtures("clean_host", "consul_as_it_was")
def test_clusters_that_are_there_keep_their_registrations(consul: Agent, libvirt: Libvirt) -> None:
    network, wanted = bring_up(libvirt, made(consul.discovery()))
    assert provider.settle(networks.observe_all(libvirt)) == ()
    assert ordered(provider.observe(libvirt, "found")) == wanted
    # Out of service discovery, and its registrations are no longer anybody's.
    policy = replace(network.policy, discovery=None)
    networks.change(libvirt, network, replace(network, policy=policy))
    assert provider.settle(networks.observe_all(libvirt)) == ()
    assert consul.services() == {}
    remove(libvirt, network)


@pytest.mark.usefixtures("clean_host")
def test_what_could_not_be_taken_back_while_consul_was_away_goes_when_it_is_there_again(
    libvirt: Libvirt, tmp_path: Path
) -> None:
    folder = tmp_path / "away"
    with agent(folder, 8540) as first:
        discovery = first.discovery()
        network, wanted = bring_up(libvirt, made(discovery))
    remove(libvirt, network)
    MEMORY.unlink()  # as it is where registrations were made before ai-how could remember
    said = provider.remember_pending("found", discovery, [each.node for each in wanted])
    assert "The next `ai-how up` or `ai-how destroy` takes them back" in said
    (why,) = provider.settle(networks.observe_all(libvirt))
    assert "nodes of found are still registered in Consul: " in why
    assert "nothing listens there" in why
    assert f"rm {MEMORY}" in why
    with agent(folder, 8540) as again:
        until(lambda: len(again.services()) == 2, "what the agent itself kept over its death")
        assert provider.settle(networks.observe_all(libvirt)) == ()
        assert again.services() == {}


def test_who_may_not_remember_is_told_the_exact_commands(
    consul: Agent, libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are run as they stand, and do what they say."""

    network, wanted = bring_up(libvirt, made(consul.discovery()))
    monkeypatch.setattr(memory, "is_root", lambda: False)
    assert provider.settle(()) == ()
    assert len(consul.services()) == 2
    said = provider.remember_pending("found", consul.discovery(), [each.node for each in wanted])
    commands = [line.split() for line in said.splitlines() if line.startswith("consul ")]
    assert len(commands) == 2
    for _, *words in commands:
        subprocess.run([program(), *words], check=True, capture_output=True)
    assert consul.services() == {}
    remove(libvirt, network)


def test_the_token_is_neither_in_memory_nor_in_the_networks_mark(
    libvirt: Libvirt, libvirt_uri: str, tmp_path: Path, virsh_text: Callable[[str], str]
) -> None:
    token = "11111111-2222-3333-4444-555555555555"  # noqa: S105
    path = tmp_path / "token"
    path.write_text(token)
    path.chmod(0o600)
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": token}}
    with agent(tmp_path / "guarded", 8540, wait=False, acl=acl) as guarded:
        until(lambda: guarded.call("GET", "/acl/token/self", token=token), "its tokens", passing=(OSError,))
        network, wanted = bring_up(libvirt, made(guarded.discovery(token_file=str(path))))
        kept = MEMORY.read_text()
        assert str(path) in kept
        assert token not in kept
        assert str(path) in virsh_text(network.name)
        assert token not in virsh_text(network.name)
        assert ordered(provider.observe(libvirt, "found")) == wanted
        for each in wanted:
            provider.remove(libvirt, each)
        assert guarded.services(token) == {}


@pytest.fixture
def virsh_text() -> Callable[[str], str]:

    def text(name: str) -> str:
        return subprocess.run(["virsh", "net-dumpxml", name], check=True, capture_output=True, text=True).stdout

    return text
