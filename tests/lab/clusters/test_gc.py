"""What is left of clusters that are not there any more: found, told from what others have, and removed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.host_view import left, without_pid_files
from tests.lab.clusters.conftest import COMMAND_DEADLINE
from tests.lab.consul_agent import agent
from tests.waiting import until

from ai_how.compile.hook import LOG, UNKNOWN
from ai_how.host import memory
from ai_how.host.lock import held
from ai_how.resources.hook import PATH as HOOK_PATH

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
View = dict[str, list[str]]

DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

#: What moves by itself where a bridge is: its clocks, and a carrier that is noticed a moment later.
MOVING = re.compile(r"\w+_timer +[\d.]+|NO-CARRIER,|,LOWER_UP| state \w+| linkdown")


def sh(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def ok(ran: Ran) -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def host_as_before(look_at_host: Callable[[], View], machine_room: None) -> Iterator[Callable[[], list[str]]]:
    """How the host differs from what it was when the test began; nothing when the test ends."""
    before = still(look_at_host())

    def differs() -> list[str]:
        return left(before, lambda: still(look_at_host()))

    yield differs
    assert differs() == []


@pytest.fixture
def gc(ai_how: AiHow, folder: Path) -> Callable[..., dict[str, Any]]:
    """What `ai-how gc WORDS… --json` says, asked by somebody whose state file knows nothing."""

    def call(*words: object, code: int = 0) -> dict[str, Any]:
        ran = ai_how("gc", *words, "--json", "--state", folder / "another_state.json")
        assert ran.returncode == code, ran.stdout + ran.stderr
        said: dict[str, Any] = json.loads(ran.stdout)
        return said

    return call


def still(view: View) -> View:
    """Without what moves by itself, and what libvirt keeps."""
    return {part: [MOVING.sub("", line) for line in lines] for part, lines in without_pid_files(view).items()}


def names(leftovers: list[dict[str, Any]]) -> set[str]:
    return {f"{each['kind']} {each['key']}" for each in leftovers}


def lose_network(virsh: Virsh, cluster: str) -> None:
    """Somebody takes the network of a cluster away, and what libvirt has of it."""
    virsh("net-destroy", f"{cluster}-network")
    virsh("net-undefine", f"{cluster}-network")


OF_THE_HOST = {
    "sysctl net.ipv4.ip_forward",
    "firewall ai_how",
    f"hook {HOOK_PATH}",
    "servers tried-network",
    f"file {DNSMASQ}/ai-how-tried-network.hosts",
    f"file {DNSMASQ}/ai-how-tried-network.names",
}


def test_a_cluster_whose_network_is_gone_is_listed_with_all_that_would_be_lost_and_removed(
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
    folder: Path,
    host_as_before: Callable[[], list[str]],
) -> None:
    path = write(nodes=2)
    ok(ai_how("up", path, "--no-start"))
    lose_network(virsh, "tried")
    expected = OF_THE_HOST | {"domain tried-controller", "domain tried-compute-01", "pool ai-how-tried"}

    # Whoever brought it up still knows it: its machines are to stay, and `up` makes it whole.
    said = json.loads(ok(ai_how("gc", "--json")))
    assert names(said["leftovers"]) == OF_THE_HOST
    assert names(gc(path)["leftovers"]) == OF_THE_HOST

    said = gc()
    assert names(said["leftovers"]) == expected
    assert said["removed"] == []
    (controller,) = [each for each in said["leftovers"] if each["key"] == "tried-controller"]
    assert controller["cluster"] == "tried"
    assert "/ai-how-tried/tried-controller.qcow2 with all data" in controller["loss"]
    assert "tried-controller" in virsh("list", "--all", "--name")

    said = gc("--yes")
    assert names(said["removed"]) == expected
    assert said["leftovers"] == []
    (folder / "cluster_state.json").unlink()
    assert host_as_before() == []


def test_what_is_only_listed_stays_as_it_is(
    write: Write, ai_how: AiHow, virsh: Virsh, look_at_host: Callable[[], View]
) -> None:
    ok(ai_how("up", write(nodes=1), "--no-start"))
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()
    before = still(look_at_host())
    said = ok(ai_how("gc"))
    assert "all data" in said
    assert left(before, lambda: still(look_at_host())) == []
    assert "removed" in ok(ai_how("gc", "--yes"))
    assert "no leftovers" in ok(ai_how("gc"))


def test_healthy_clusters_of_other_files_and_of_all_modes_have_no_leftovers(
    write: Write, ai_how: AiHow, gc: Callable[..., dict[str, Any]], look_at_host: Callable[[], View]
) -> None:
    one = write("one.yaml", name="one", network={"subnet": "10.45.0.0/24"}, cloud_init=True)
    two = write(
        "two.yaml", name="two", network={"subnet": "10.46.0.0/24", "dns_mode": "shared_dns", "host_resolver": "none"}
    )
    off = write("off.yaml", name="off", network={"subnet": "10.47.0.0/24", "firewall": {"enabled": False}})
    via = [{"to": "10.99.0.0/24", "via": "203.0.113.1"}]
    way = write("way.yaml", name="way", network={"subnet": "10.48.0.0/24", "dns_mode": "routed", "routes": via})
    for path in (one, two, off, way):
        ok(ai_how("up", path, "--no-start"))
    ok(ai_how("down", two))
    before = still(look_at_host())
    assert gc() == {"leftovers": [], "removed": [], "unseen": []}
    assert gc("--yes") == {"leftovers": [], "removed": [], "unseen": []}
    assert left(before, lambda: still(look_at_host())) == []
    for path in (one, two, off, way):
        ok(ai_how("destroy", path, "--yes"))


# Each kind of thing, beside one of the same look that is somebody else's.


@pytest.fixture
def healthy(write: Write, ai_how: AiHow) -> Iterator[Path]:
    """A cluster that is known and well, whatever becomes of others; it goes at the end."""
    path = write("well.yaml", name="well", network={"subnet": "10.45.0.0/24"})
    ok(ai_how("up", path, "--no-start", "--state", "well_state.json"))
    yield path
    ok(ai_how("destroy", path, "--yes", "--state", "well_state.json"))


def test_rules_for_a_cluster_that_is_gone_go_and_those_of_others_stay(
    host_as_before: Callable[[], list[str]],
    healthy: Path,
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    sh("nft", "add", "table", "inet", "ai_how_of_mine")
    before = sorted(sh("nft", "--stateless", "list", "ruleset").splitlines())
    path = write(nodes=1, network={"firewall": {"expose": ["8899:tried-controller:80"]}})
    ok(ai_how("up", path, "--no-start"))
    lose_network(virsh, "tried")
    assert "br-tried" in sh("nft", "list", "ruleset")
    said = gc()
    (rules,) = [each for each in said["leftovers"] if each["kind"] == "firewall"]
    assert (rules["cluster"], rules["why"]) == ("tried", "it is also for tried, of which this host has no network")
    gc("--yes")
    assert sorted(sh("nft", "--stateless", "list", "ruleset").splitlines()) == before
    sh("nft", "delete", "table", "inet", "ai_how_of_mine")
    Path("cluster_state.json").unlink()


def test_tables_with_our_mark_that_nobody_remembers_go_and_one_of_our_name_without_it_stays(
    host_as_before: Callable[[], list[str]], gc: Callable[..., dict[str, Any]]
) -> None:
    sh("nft", "add", "table", "bridge", "ai_how")
    sh("nft", "add", "table", "inet", "ai_how")
    sh("nft", "add", "chain", "inet", "ai_how", "made_by_ai_how")
    assert names(gc()["leftovers"]) == {"firewall ai_how"}
    assert names(gc("--yes")["removed"]) == {"firewall ai_how"}
    assert "inet ai_how" not in sh("nft", "list", "tables")
    sh("nft", "delete", "table", "bridge", "ai_how")


def test_what_systemd_resolved_was_told_of_a_network_that_is_gone_is_forgotten(
    host_as_before: Callable[[], list[str]], gc: Callable[..., dict[str, Any]]
) -> None:
    told = {"gone-network": {"bridge": "br-gone", "server": "10.44.0.1", "zones": ["gone.internal"]}}
    memory.remember("resolver.json", told)
    memory.remember_text("resolver.links", "br-gone 10.44.0.1 gone.internal\n")
    assert names(gc()["leftovers"]) == {"resolver gone-network"}
    assert names(gc("--yes")["removed"]) == {"resolver gone-network"}


def test_rules_with_our_comment_in_other_programs_chains_go_and_those_of_others_stay(
    host_as_before: Callable[[], list[str]],
    healthy: Path,
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    neighbours = [
        ["FORWARD", "-i", "br-tried", "-m", "comment", "--comment", "ai-how-not", "-j", "ACCEPT"],
        ["FORWARD", "-i", "br-tried", "-j", "ACCEPT"],
        ["FORWARD", "-i", "br-tried", "-m", "comment", "--comment", "ai-how", "-j", "DROP"],
    ]
    for each in neighbours:
        sh("iptables", "-A", *each)
    sh("iptables", "-P", "FORWARD", "DROP")
    try:
        path = write(nodes=1)
        ok(ai_how("up", path, "--no-start"))
        lose_network(virsh, "tried")
        ours = "-i br-tried -m comment --comment ai-how -j ACCEPT"
        assert ours in sh("iptables", "-S", "FORWARD")
        assert "passage FORWARD" in names(gc()["leftovers"])
        assert "passage FORWARD" in names(gc("--yes")["removed"])
        left = [line for line in sh("iptables", "-S", "FORWARD").splitlines() if "br-tried" in line]
        assert sorted(left) == sorted(" ".join(["-A", *each]) for each in neighbours)
        # The last one that needs it goes, and leaves a rule of ours behind by a crash.
        ok(ai_how("destroy", healthy, "--yes", "--state", "well_state.json"))
        sh("iptables", "-I", "INPUT", "-i", "br-gone", "-m", "comment", "--comment", "ai-how", "-j", "ACCEPT")
        assert names(gc()["leftovers"]) == {"passage INPUT"}
        assert names(gc("--yes")["removed"]) == {"passage INPUT"}
        assert "br-gone" not in sh("iptables", "-S")
    finally:
        sh("iptables", "-P", "FORWARD", "ACCEPT")
        for each in neighbours:
            sh("iptables", "-D", *each)
        Path("cluster_state.json").unlink(missing_ok=True)


def test_routes_with_our_number_go_and_those_with_another_stay(
    host_as_before: Callable[[], list[str]], gc: Callable[..., dict[str, Any]]
) -> None:
    ours = ["10.98.0.0/24", "via", "203.0.113.1", "proto", "97"]
    theirs = ["10.97.0.0/24", "via", "203.0.113.1", "proto", "98"]
    sh("ip", "route", "add", *theirs)
    sh("ip", "route", "add", *ours)
    assert names(gc()["leftovers"]) == {"route 10.98.0.0/24"}
    assert names(gc("--yes")["removed"]) == {"route 10.98.0.0/24"}
    sh("ip", "route", "del", *theirs)


def test_a_setting_that_is_remembered_for_nobody_goes_back_to_what_it_was(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    before = FORWARDING.read_text()
    FORWARDING.write_text("0")
    try:
        ok(ai_how("up", write(nodes=1), "--no-start"))
        assert FORWARDING.read_text().strip() == "1"
        lose_network(virsh, "tried")
        Path("cluster_state.json").unlink()
        gc("--yes")
        assert FORWARDING.read_text().strip() == "0"
    finally:
        FORWARDING.write_text(before)


@pytest.mark.parametrize("missing", ["sysctl.json", "hook.json", "passage.json", "routes.json", "resolver.json"])
def test_notes_whose_other_half_is_gone_go_and_a_strangers_file_beside_them_stays(
    missing: str, host_as_before: Callable[[], list[str]], gc: Callable[..., dict[str, Any]]
) -> None:
    beside = {
        "sysctl.json": "sysctl.settings",
        "hook.json": "hook.json",
        "passage.json": "passage.rules",
        "routes.json": "routes.batch",
        "resolver.json": "resolver.links",
    }[missing]
    memory.remember_text(beside, "what is this\n")
    theirs = memory.DIRECTORY / "notes.txt"
    theirs.write_text("mine\n")
    assert names(gc()["leftovers"]) == {f"file {memory.DIRECTORY / beside}"}
    assert names(gc("--yes")["removed"]) == {f"file {memory.DIRECTORY / beside}"}
    assert theirs.read_text() == "mine\n"
    theirs.unlink()


def test_a_hook_without_clusters_and_what_it_wrote_go_and_hooks_of_others_stay(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    hook = Path(HOOK_PATH)
    made = [each for each in hook.parents if not each.exists()]
    ok(ai_how("up", write(nodes=1), "--no-start"))
    Path(LOG).write_text("it went wrong\n")
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()
    theirs = hook.with_name("ai-how-of-mine")
    theirs.write_text("#!/bin/sh\n")
    assert f"hook {HOOK_PATH}" in names(gc()["leftovers"])
    gc("--yes")
    assert not hook.exists()
    assert not Path(LOG).exists()
    assert theirs.exists()
    theirs.unlink()
    for each in made:  # what holds somebody's file stays
        each.rmdir()
    # One that somebody removed leaves its papers behind.
    for paper in (LOG, UNKNOWN):
        Path(paper).write_text("")
    assert names(gc("--yes")["removed"]) == {f"file {LOG}", f"file {UNKNOWN}"}


@pytest.fixture
def dnsmasqs() -> Iterator[Path]:
    """The directory of the host's dnsmasq, made for the test."""
    directory = Path("/etc/dnsmasq.d")
    made = not directory.exists()
    directory.mkdir(exist_ok=True)
    yield directory
    if made:
        directory.rmdir()


def test_resolver_and_servers_files_of_clusters_that_are_gone_go_and_files_of_others_stay(
    host_as_before: Callable[[], list[str]], dnsmasqs: Path, gc: Callable[..., dict[str, Any]]
) -> None:
    ours = [
        dnsmasqs / "ai-how-gone-network.conf",
        DNSMASQ / "ai-how-gone-network.servers",
        DNSMASQ / "ai-how-gone-network.options",
        DNSMASQ / "ai-how-gone-network.hosts",
        DNSMASQ / "ai-how-gone-network.names",
        DNSMASQ / ".ai-how-other-network.servers.new",
        DNSMASQ / ".ai-how-other-network.hosts.new",
    ]
    theirs = [each.with_name(each.name.replace("gone", "mine")) for each in ours[:5]]
    for each in ours:
        each.write_text("# Written by ai-how, which overwrites it.\nserver=/gone.internal/10.44.0.1\n")
    for each in theirs:
        each.write_text("# mine\n")
    assert names(gc()["leftovers"]) == {
        "resolver gone-network",
        "servers gone-network",
        "servers other-network",
        f"file {ours[3]}",
        f"file {ours[4]}",
        f"file {ours[6]}",
    }
    assert gc("--yes")["leftovers"] == []
    assert [each for each in ours if each.exists()] == []
    for each in theirs:
        assert each.read_text() == "# mine\n"
        each.unlink()


def test_halves_of_writes_that_were_cut_off_go_beside_a_healthy_cluster(
    host_as_before: Callable[[], list[str]], healthy: Path, folder: Path, gc: Callable[..., dict[str, Any]]
) -> None:
    ours = [
        memory.DIRECTORY / ".firewall.json.new",
        Path(HOOK_PATH).with_name(".ai-how.new"),
        DNSMASQ / ".ai-how-well-network.servers.new",
        folder / ".another_state.json.new",
    ]
    theirs = [memory.DIRECTORY / "notes.new", DNSMASQ / ".ai-how-mine.new", folder / ".notes.json.new"]
    for each in (*ours, *theirs):
        each.write_text("half")
    assert names(gc()["leftovers"]) == {f"file {each}" for each in ours}
    assert names(gc("--yes")["removed"]) == {f"file {each}" for each in ours}
    assert [each for each in ours if each.exists()] == []
    for each in theirs:
        assert each.read_text() == "half"
        each.unlink()


def test_what_consul_has_of_a_cluster_that_is_gone_goes_and_services_of_others_stay(
    host_as_before: Callable[[], list[str]],
    tmp_path: Path,
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    where = tmp_path / "consul"
    with agent(where) as consul:
        consul.call("PUT", "/agent/service/register", {"ID": "ai-how:tried:mine", "Name": "tried"})
        ok(ai_how("up", write(nodes=1, network={"dns_mode": "service_discovery"}), "--no-start", "--no-wait"))
        assert sorted(consul.services()) == ["ai-how:tried:mine", "ai-how:tried:tried-controller"]
        lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()

    # Away, it cannot be asked, and that is no pass.
    (why,) = gc()["unseen"]
    assert "still registered in Consul" in why
    assert not [each for each in gc("--yes")["removed"] if each["kind"] == "registration"]
    assert (memory.DIRECTORY / "consul.json").exists()

    with agent(where) as consul:
        until(lambda: len(consul.services()) == 2, "Consul has read what it knew")
        (entry,) = gc()["leftovers"]
        assert (entry["kind"], entry["cluster"]) == ("registration", "tried")
        assert entry["loss"] == "ai-how:tried:tried-controller is deregistered"
        assert len(gc("--yes")["removed"]) == 1
        assert list(consul.services()) == ["ai-how:tried:mine"]
    assert not (memory.DIRECTORY / "consul.json").exists()


# What is kept, and what is nobody's business.


def test_a_cluster_with_a_machine_that_runs_is_kept_whole_and_the_way_is_said(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    ok(ai_how("up", write(nodes=2), "--no-start"))
    virsh("start", "tried-compute-01")
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()
    said = gc("--yes", code=1)
    kept = {"domain tried-controller", "domain tried-compute-01", "pool ai-how-tried"}
    assert names(said["leftovers"]) == kept
    assert {each["kept"] for each in said["leftovers"]} == {
        "tried-compute-01 runs, and gc ends no machine: ai-how destroy tried"
    }
    assert names(said["removed"]) == OF_THE_HOST
    assert "tried-compute-01" in virsh("list", "--name")
    ok(ai_how("destroy", "tried", "--yes"))


def test_disks_that_a_machine_of_somebody_else_uses_are_kept(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    folder: Path,
    gc: Callable[..., dict[str, Any]],
) -> None:
    ok(ai_how("up", write(nodes=1), "--no-start"))
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()
    definition = folder / "mine.xml"
    text = virsh("dumpxml", "tried-controller")
    text = re.sub(r"<uuid>.*</uuid>|<mac address=.*/>|(?s:<metadata>.*</metadata>)|(?s:<sysinfo.*</sysinfo>)", "", text)
    definition.write_text(
        text.replace("tried-controller</name>", "mine</name>").replace("<smbios mode='sysinfo'/>", "")
    )
    virsh("define", str(definition))
    virsh("undefine", "tried-controller")
    said = gc("--yes", code=1)
    assert {each["kind"] for each in said["leftovers"]} == {"volume", "pool"}
    assert all("mine, which is not ours, uses" in each["kept"] for each in said["leftovers"])
    virsh("undefine", "mine")
    said = gc("--yes")
    assert names(said["removed"]) == {"volume ai-how-tried/tried-controller.qcow2", "pool ai-how-tried"}


def test_a_stopped_pool_without_machines_goes_with_what_is_in_it_and_a_strangers_file_keeps_it(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    ok(ai_how("up", write(nodes=1), "--no-start"))
    lose_network(virsh, "tried")
    virsh("undefine", "tried-controller")
    virsh("pool-destroy", "ai-how-tried")
    Path("cluster_state.json").unlink()
    stranger = Path("/var/lib/libvirt/images/ai-how-tried/thesis.txt")
    stranger.write_text("years of work")
    (pool,) = [each for each in gc()["leftovers"] if each["kind"] == "pool"]
    assert "what is in there was not looked at" in pool["loss"]
    (pool,) = gc("--yes", code=1)["leftovers"]
    assert "holds files that ai-how did not make: thesis.txt" in pool["kept"]
    assert stranger.read_text() == "years of work"
    stranger.unlink()
    assert names(gc("--yes")["removed"]) == {"pool ai-how-tried"}


def test_machines_pools_and_networks_of_others_with_names_like_ours_are_none_of_ours(
    host_as_before: Callable[[], list[str]], folder: Path, virsh: Virsh, gc: Callable[..., dict[str, Any]]
) -> None:
    definition = folder / "mine.xml"
    of_mine = {
        "net-": "<network><name>mine-network</name><ip address='10.254.0.1' netmask='255.255.255.0'/></network>",
        "pool-": "<pool type='dir'><name>ai-how-mine</name><target><path>/srv/mine</path></target></pool>",
        "": "<domain type='qemu'><name>mine-controller</name><memory>1024</memory><os><type>hvm</type></os></domain>",
    }
    for prefix, text in of_mine.items():
        definition.write_text(text)
        virsh(f"{prefix}define", str(definition))
    assert gc("--yes") == {"leftovers": [], "removed": [], "unseen": []}
    virsh("net-undefine", "mine-network")
    virsh("pool-undefine", "ai-how-mine")
    virsh("undefine", "mine-controller")


def test_a_network_that_lost_its_mark_keeps_what_the_host_has_for_it(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    folder: Path,
    gc: Callable[..., dict[str, Any]],
) -> None:
    path = write(nodes=1)
    ok(ai_how("up", path, "--no-start"))
    definition = folder / "network.xml"
    text = virsh("net-dumpxml", "--inactive", "tried-network")
    definition.write_text(re.sub(r"(?s)<metadata>.*</metadata>", "", text))
    virsh("net-define", str(definition))
    definition.unlink()
    assert gc("--yes") == {"leftovers": [], "removed": [], "unseen": []}
    ok(ai_how("up", path, "--no-start"))
    assert "urn:ai-how" in virsh("net-dumpxml", "--inactive", "tried-network")
    assert gc("--yes") == {"leftovers": [], "removed": [], "unseen": []}
    ok(ai_how("destroy", path, "--yes"))


def test_another_libvirt_says_nothing_about_what_this_host_has_for_the_systems_one(
    healthy: Path, gc: Callable[..., dict[str, Any]], look_at_host: Callable[[], View]
) -> None:
    before = still(look_at_host())
    said = gc("--yes", "--connect", "test:///default")
    assert said["leftovers"] == said["removed"] == []
    assert "which test:///default is not" in said["unseen"][0]
    assert left(before, lambda: still(look_at_host())) == []


def test_without_root_leftovers_are_listed_and_none_is_removed(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    ok(ai_how("up", write(nodes=1), "--no-start"))
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()

    def as_somebody(*words: str) -> Ran:
        command = ["setpriv", "--bounding-set=-net_admin", "--", sys.executable, "-m", "ai_how", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE)

    ran = as_somebody("gc")
    assert ran.returncode == 0, ran.stderr
    assert "firewall ai_how" in ran.stdout
    assert "domain tried-controller" in ran.stdout
    assert "not looked at: rules in the kernel" in ran.stderr
    ran = as_somebody("gc", "--yes")
    assert ran.returncode == 4
    assert "sudo" in ran.stderr
    assert "gc --yes" in ran.stderr
    assert "domain tried-controller" in names(gc()["leftovers"])
    gc("--yes")


def test_what_another_ai_how_works_on_is_kept(
    host_as_before: Callable[[], list[str]],
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
) -> None:
    ok(ai_how("up", write(nodes=1), "--no-start"))
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()
    with held("qemu:///system", "tried"):
        said = gc("--yes", code=1)
    assert names(said["leftovers"]) == {"domain tried-controller", "pool ai-how-tried"}
    assert all("in use by another ai-how" in each["kept"] for each in said["leftovers"])
    assert gc("--yes")["leftovers"] == []


def test_a_configuration_that_is_wrong_is_no_reason_to_take_its_cluster_for_unknown(
    host_as_before: Callable[[], list[str]], folder: Path, ai_how: AiHow
) -> None:
    (folder / "wrong.yaml").write_text("clusters: {hpc: {name: tried, netwrok: {}}}\n")
    assert ai_how("gc", "wrong.yaml", "--yes").returncode == 2
    assert ai_how("gc", "nowhere.yaml", "--yes").returncode == 2
