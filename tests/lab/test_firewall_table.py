"""The firewall table on a host: loaded, seen, broken by others, repaired and removed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from tests.lab.firewall_scene import rules, run

from ai_how.config.terms import Protocol
from ai_how.errors import HostError, NotOurs
from ai_how.host import memory, nftables
from ai_how.host.libvirt import Libvirt
from ai_how.providers import firewall
from ai_how.resources.firewall import NEXT, TABLE, ClusterRules, FirewallTable
from ai_how.resources.ruleset import FAMILIES, render
from ai_how.spec.policy import Exposure, Port

WANT = FirewallTable(
    (
        rules("a", block_networks=(IPv4Network("192.168.0.0/16"),), peers=("fw-b",)),
        rules("b", peers=("fw-a",)),
    ),
    ("uplink",),
    intact=True,
)
BROKEN = replace(WANT, intact=False)


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    with Libvirt(libvirt_uri) as opened:
        yield opened
        firewall.remove(opened, WANT)


@pytest.fixture
def loaded(libvirt: Libvirt) -> Libvirt:
    firewall.create(libvirt, WANT)
    assert firewall.observe(libvirt, "") == [WANT]
    return libvirt


@pytest.mark.usefixtures("clean_host")
def test_table_is_loaded_seen_and_removed_without_a_trace_however_often(libvirt: Libvirt) -> None:
    assert firewall.observe(libvirt, "") == []
    firewall.remove(libvirt, WANT)
    for _ in range(2):
        firewall.create(libvirt, WANT)
        assert firewall.observe(libvirt, "") == [WANT]
    other = replace(WANT, clusters=WANT.clusters[:1], uplinks=())
    firewall.change(libvirt, WANT, other)
    assert firewall.observe(libvirt, "") == [other]
    for _ in range(2):
        firewall.remove(libvirt, other)
        assert firewall.observe(libvirt, "") == []


@pytest.mark.parametrize(
    "edit",
    [
        "flush table inet ai_how",
        "flush table bridge ai_how",
        "flush chain inet ai_how into_cluster",
        "flush set inet ai_how blocked",
        "delete table inet ai_how",
        "delete table arp ai_how",
        "delete table bridge ai_how",
        "delete element inet ai_how bridges { fw-a }",
        "add element inet ai_how peers { fw-a . fw-a }",
        "add rule inet ai_how forward accept",
        "insert rule inet ai_how forward accept",
        "add chain inet ai_how another",
        "add chain inet ai_how input { policy drop; }",
        "add table inet ai_how { flags dormant; }",
    ],
)
def test_every_edit_of_our_table_is_seen_and_repaired(loaded: Libvirt, edit: str) -> None:
    run("nft", edit)
    assert firewall.observe(loaded, "") == [BROKEN]
    assert firewall.foreign(loaded, [TABLE]) == {}
    firewall.change(loaded, BROKEN, WANT)
    assert firewall.observe(loaded, "") == [WANT]


def test_a_rule_that_is_gone_is_seen_and_repaired(loaded: Libvirt) -> None:
    listed = json.loads(run("nft", "-j", "list", "chain", "inet", TABLE, "between"))["nftables"]
    handle = next(each["rule"]["handle"] for each in listed if each.get("rule", {}).get("comment") == "other-cluster")
    run("nft", "delete", "rule", "inet", TABLE, "between", "handle", str(handle))
    assert firewall.observe(loaded, "") == [BROKEN]


def test_table_that_was_flushed_with_the_whole_ruleset_is_missed_while_it_is_remembered(loaded: Libvirt) -> None:
    for family in FAMILIES:
        run("nft", "delete", "table", family, TABLE)
    assert firewall.observe(loaded, "") == [BROKEN]
    firewall.remove(loaded, BROKEN)
    assert firewall.observe(loaded, "") == []


def test_packets_that_are_counted_leave_the_table_intact(loaded: Libvirt) -> None:
    run("nft", "add rule inet ai_how made_by_ai_how counter")
    broken = run("nft", "-j", "list", "table", "inet", TABLE)
    counted = broken.replace('"packets": 0', '"packets": 7')
    assert counted != broken
    assert nftables.read_digest(counted) == nftables.read_digest(broken)


def test_rules_that_were_remembered_can_be_loaded_by_nft_alone(loaded: Libvirt) -> None:
    """As after a restart of the host, where the hook loads them before anything of Python has run."""
    for family in FAMILIES:
        run("nft", "delete", "table", family, TABLE)
    for _ in range(2):
        for transaction in (memory.DIRECTORY / nftables.RULES).read_text().splitlines():
            subprocess.run(["nft", "-j", "-f", "-"], input=transaction, text=True, check=True)
        assert firewall.observe(loaded, "") == [WANT]


def test_rules_that_nft_lists_can_be_loaded_again_from_a_file_by_people(loaded: Libvirt) -> None:
    """`nft list ruleset > /etc/nftables.conf` is what they do; no name of ours is a word of nft's language."""
    listed = run("nft", "--stateless", "list", "table", "inet", TABLE)
    subprocess.run(["nft", "-f", "-"], input=f"delete table inet {TABLE}\n{listed}", text=True, check=True)
    assert run("nft", "--stateless", "list", "table", "inet", TABLE) == listed
    assert firewall.observe(loaded, "") == [WANT]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"clusters": 1}', '{"clusters": [], "uplinks": [], "digests": 1}']
)
def test_memory_that_is_lost_or_spoilt_makes_the_table_be_loaded_anew(loaded: Libvirt, text: str) -> None:
    memory.remember_text(firewall.APPLIED, text)
    (seen,) = firewall.observe(loaded, "")
    assert not seen.intact
    firewall.change(loaded, seen, WANT)
    assert firewall.observe(loaded, "") == [WANT]
    memory.forget(firewall.APPLIED)
    (seen,) = firewall.observe(loaded, "")
    assert not seen.intact
    firewall.change(loaded, WANT, seen)  # as an undo does: what nobody remembers is not put in place of rules
    assert "other-cluster" in run("nft", "list", "table", "inet", TABLE)


def test_killed_between_loading_and_remembering_the_next_run_loads_again(loaded: Libvirt) -> None:
    nftables.load(render(replace(WANT, clusters=WANT.clusters[:1])))
    assert firewall.observe(loaded, "") == [BROKEN]
    firewall.change(loaded, BROKEN, WANT)
    assert firewall.observe(loaded, "") == [WANT]


@pytest.mark.parametrize("transactions", [1, 2])
def test_killed_while_loading_the_next_run_loads_again_or_removes_all_of_it(
    libvirt: Libvirt, transactions: int
) -> None:
    nftables.load("".join(render(WANT).splitlines(keepends=True)[:transactions]))
    for act in (firewall.create, firewall.remove):
        (seen,) = firewall.observe(libvirt, "")
        assert not seen.intact
        assert firewall.foreign(libvirt, [TABLE]) == {}
        act(libvirt, WANT)
        assert firewall.observe(libvirt, "") == ([WANT] if act is firewall.create else [])
        assert (NEXT in run("nft", "list", "tables")) is False
        nftables.load("".join(render(WANT).splitlines(keepends=True)[:transactions]))
    firewall.remove(libvirt, WANT)
    assert TABLE not in run("nft", "list", "tables")


@pytest.mark.parametrize("name", [TABLE, NEXT])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_of_our_name_that_is_not_ours_is_named_and_never_touched(
    libvirt: Libvirt, family: str, name: str
) -> None:
    run("nft", f"add table {family} {name}; add chain {family} {name} theirs")
    theirs = run("nft", "list", "table", family, name)
    try:
        assert firewall.observe(libvirt, "") == []
        removal = f"nft delete table {family} {name}"
        words = f"a table {family} {name} that ai-how did not make (what removes it: {removal})"
        assert firewall.foreign(libvirt, [TABLE]) == {TABLE: words}
        with pytest.raises(NotOurs, match=f"a table {family} {name}"):
            firewall.create(libvirt, WANT)
        firewall.remove(libvirt, WANT)
        assert run("nft", "list", "table", family, name) == theirs
        assert [line for line in run("nft", "list", "tables").splitlines() if TABLE in line] == [
            f"table {family} {name}"
        ]
    finally:
        run("nft", "delete", "table", family, name)


def test_rules_that_the_kernel_refuses_leave_the_old_ones_in_force(loaded: Libvirt) -> None:
    impossible = replace(WANT, clusters=(rules("a", peers=("a-name-longer-than-any-link",)),))
    with pytest.raises(HostError, match="nft"):
        firewall.change(loaded, WANT, impossible)
    assert firewall.observe(loaded, "") == [WANT]


def test_without_root_what_was_loaded_last_is_told_from_memory(
    loaded: Libvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "is_root", lambda: False)
    monkeypatch.setattr(nftables, "SEARCH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")  # nothing is asked
    assert firewall.observe(loaded, "") == [WANT]
    assert firewall.foreign(loaded, [TABLE]) == {}
    memory.forget(firewall.APPLIED)
    assert firewall.observe(loaded, "") == []
    monkeypatch.undo()


def test_without_nft_the_package_to_install_is_named(loaded: Libvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "SEARCH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    for act in (
        lambda: firewall.observe(loaded, ""),
        lambda: firewall.foreign(loaded, [TABLE]),
        lambda: firewall.create(loaded, WANT),
        lambda: firewall.remove(loaded, WANT),
    ):
        with pytest.raises(HostError) as refused:
            act()
        assert "apt-get install nftables" in refused.value.remedy
    monkeypatch.undo()
    assert firewall.observe(loaded, "") == [WANT]
    firewall.remove(loaded, WANT)
    monkeypatch.setattr(nftables, "SEARCH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert firewall.observe(loaded, "") == []  # a host that never had a table needs no nft to say so
    monkeypatch.undo()


def test_rules_of_a_hundred_clusters_are_loaded_and_seen(libvirt: Libvirt) -> None:
    """What that costs is bench/'s business."""
    table = replace(WANT, clusters=tuple(_large(number) for number in range(100)))
    firewall.create(libvirt, table)
    assert firewall.observe(libvirt, "") == [table]


def _large(number: int) -> ClusterRules:
    net = IPv4Network((int(IPv4Address("10.100.0.0")) + number * 256, 24))
    return ClusterRules(
        cluster=f"c{number:02}",
        bridge=f"br-{number}",
        subnet=net,
        gateway=net[1],
        macs=tuple(f"52:54:00:01:{number:02x}:{node:02x}" for node in range(100)),
        masquerade=True,
        peers=tuple(sorted(f"br-{other}" for other in range(100) if other != number)),
        block_networks=(IPv4Network("192.168.0.0/16"),),
        expose=(Exposure(Port(Protocol.TCP, 10000 + number), "any", net[10], 22),),
    )
