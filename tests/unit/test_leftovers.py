"""What counts as left of clusters that are gone: decided from what was seen, whatever host that was."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath

import pytest

from ai_how import providers
from ai_how.compile.hook import LOG
from ai_how.engine.leftovers import MEMORY_FILES, Entry, Leftover, Seen, find, sides
from ai_how.host import memory
from ai_how.resources.base import Kind, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.firewall import ClusterRules, FirewallTable
from ai_how.resources.network import Forward, VirtualNetwork
from ai_how.resources.passage import Passage
from ai_how.resources.pool import Pool
from ai_how.resources.servers import Servers
from ai_how.resources.sysctl import FORWARDING, Sysctl
from ai_how.resources.volume import Volume
from ai_how.spec.node import Role

IMAGES = PurePosixPath("/var/lib/libvirt/images")


def network(cluster: str) -> VirtualNetwork:
    return VirtualNetwork(
        name=f"{cluster}-network",
        cluster=cluster,
        dns_mode="isolated",
        forward=Forward.ROUTE,
        bridge=f"br-{cluster}",
        mac="52:54:00:00:00:01",
        mtu=None,
        domain=f"{cluster}.internal",
        subnet=IPv4Network("10.44.0.0/24"),
        gateway=IPv4Address("10.44.0.1"),
        dhcp_ranges=(),
        reservations=(),
        dns_hosts=(),
        forwarders=(),
        dnsmasq_options=(),
        active=True,
        autostart=True,
    )


def machine(cluster: str, *, running: bool = False) -> Domain:
    return Domain(
        name=f"{cluster}-controller",
        cluster=cluster,
        role=Role.CONTROLLER,
        kvm=False,
        vcpus=1,
        memory_kib=1024,
        disk=IMAGES / f"ai-how-{cluster}" / f"{cluster}-controller.qcow2",
        seed=None,
        network=f"{cluster}-network",
        mac="52:54:00:00:00:02",
        graphics=False,
        running=running,
    )


def pool(cluster: str, *, active: bool = True) -> Pool:
    return Pool(f"ai-how-{cluster}", IMAGES / f"ai-how-{cluster}", active=active)


def disk(cluster: str, node: str) -> Volume:
    return Volume(f"ai-how-{cluster}", f"{node}.qcow2", 1, IMAGES / "base.qcow2")


def rules(*clusters: str) -> FirewallTable:
    made = (
        ClusterRules(each, f"br-{each}", IPv4Network("10.44.0.0/24"), IPv4Address("10.44.0.1")) for each in clusters
    )
    return FirewallTable(tuple(made), (), intact=True)


def keys(leftovers: tuple[Leftover, ...]) -> list[str]:
    return sorted(str(each) for each in leftovers)


GONE = Seen(machines=(machine("gone"),), pools=(pool("gone"),), files=(disk("gone", "gone-controller"),))


def test_a_cluster_is_known_by_its_network_or_by_name_and_else_it_is_a_leftover() -> None:
    assert keys(find(GONE, ())) == ["domain gone-controller", "pool ai-how-gone"]
    assert find(GONE, {"gone"}) == ()
    assert find(replace(GONE, networks=(network("gone"),)), ()) == ()
    assert keys(find(replace(GONE, networks=(network("other"),)), {"another"})) == keys(find(GONE, ()))


def test_every_disk_that_would_go_is_named_by_its_machine_or_by_itself() -> None:
    seen = replace(GONE, files=(*GONE.files, disk("gone", "gone-compute-01")))
    found = find(seen, ())
    told = {each.key: each.loss for each in found if "all data" in each.loss}
    assert told == {
        "gone-controller": "the machine goes, and its disk /var/lib/libvirt/images/ai-how-gone/gone-controller.qcow2 "
        "with all data on it",
        "ai-how-gone/gone-compute-01.qcow2": "the disk goes, with all data on it",
    }


def test_a_machine_that_runs_keeps_all_of_its_cluster_and_nothing_of_others() -> None:
    seen = Seen(machines=(machine("busy", running=True), machine("gone")), pools=(pool("busy"), pool("gone")))
    kept = {str(each): each.kept for each in find(seen, ())}
    why = "busy-controller runs, and gc ends no machine: ai-how destroy busy"
    assert kept == {
        "domain busy-controller": why,
        "pool ai-how-busy": why,
        "domain gone-controller": "",
        "pool ai-how-gone": "",
    }


def test_a_running_machine_without_mark_keeps_the_pool_that_its_disk_is_in() -> None:
    unmarked = replace(machine("gone", running=True), cluster="")
    found = {str(each): each.kept for each in find(replace(GONE, machines=(unmarked,)), ())}
    assert all(found.values())
    assert "virsh destroy gone-controller" in found["domain gone-controller"]


def test_a_machine_without_mark_belongs_to_the_known_cluster_whose_network_or_pool_it_uses() -> None:
    unmarked = replace(machine("here"), cluster="")
    assert find(Seen(networks=(network("here"),), machines=(unmarked,)), ()) == ()
    moved = replace(unmarked, network="elsewhere")
    assert find(Seen(networks=(network("here"),), machines=(moved,)), ()) == ()
    assert keys(find(Seen(machines=(unmarked,)), ())) == ["domain here-controller"]


def test_a_disk_that_a_machine_of_somebody_else_uses_keeps_its_pool() -> None:
    used = IMAGES / "ai-how-gone" / "gone-controller.qcow2"
    found = find(replace(GONE, users=((used, "mine"),)), ())
    assert {each.kept for each in found} == {
        f"mine, which is not ours, uses {used}: take that disk from it, then gc again"
    }


def test_what_no_network_needs_goes_whole_and_what_others_need_too_in_part() -> None:
    have: tuple[Resource, ...] = (
        Sysctl(FORWARDING, "1"),
        rules("gone", "here"),
        Passage("FORWARD", ("br-gone", "br-here")),
        Servers("gone-network", ()),
    )
    need: tuple[Resource, ...] = (Sysctl(FORWARDING, "1"), rules("here"), Passage("FORWARD", ("br-here",)))
    seen = Seen(networks=(network("here"),), host=have, needed=need)
    found = find(seen, ())
    assert keys(found) == ["firewall ai_how", "passage FORWARD", "servers gone-network"]
    want, there = sides(seen, found)
    assert want == list(need[1:])
    assert there == list(have[1:])
    assert find(replace(seen, host=need), ()) == ()
    assert len(find(replace(seen, needed=()), ())) == len(have)


def test_what_only_differs_is_no_leftover() -> None:
    have = (Sysctl(FORWARDING, "0"), replace(rules("here"), intact=False), Passage("FORWARD", ()))
    need = (Sysctl(FORWARDING, "1"), rules("here", "coming"), Passage("FORWARD", ("br-here",)))
    assert find(Seen(networks=(network("here"),), host=have, needed=need), ()) == ()


def test_of_a_host_that_could_not_be_judged_nothing_is_called_a_leftover() -> None:
    papers = (memory.DIRECTORY / "firewall.json", Path(LOG))
    assert find(Seen(host=(rules("gone"),), needed=None, papers=papers), ()) == ()


def test_notes_go_where_nothing_of_their_kind_is_there_or_needed() -> None:
    papers = tuple(memory.DIRECTORY / each for each in MEMORY_FILES)
    assert len(find(Seen(papers=papers), ())) == len(papers)
    seen = Seen(networks=(network("here"),), host=(rules("here"),), needed=(rules("here"),), papers=papers)
    assert {Path(each.key).name for each in find(seen, ())} == MEMORY_FILES.keys() - {
        "firewall.json",
        "firewall-applied.json",
    }


def test_entries_in_consul_are_named_with_what_goes() -> None:
    (found,) = find(Seen(entries=(Entry("gone", "http://127.0.0.1:8500", ("ai-how:gone:a", "ai-how:gone:b")),)), ())
    assert found.loss == "ai-how:gone:a, ai-how:gone:b are deregistered"
    assert (found.kind, found.cluster) == (Kind.REGISTRATION, "gone")


@pytest.mark.parametrize("kind", Kind)
def test_every_file_of_our_memory_is_known_to_gc(kind: Kind) -> None:
    provider = providers.PROVIDERS[kind]
    names = ("_MEMORY", "MEMORY", "_FOR_THE_HOOK", "_LINKS", "RULES", "APPLIED")
    files = {getattr(provider, name) for name in names if hasattr(provider, name)}
    assert files == {name for name, of in MEMORY_FILES.items() if of is kind}
