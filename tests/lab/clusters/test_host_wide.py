"""The host outside libvirt: changed only as root, said before, for all clusters at once, and put back byte for byte."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.host_view import left
from tests.lab.clusters.conftest import COMMAND_DEADLINE
from tests.lab.clusters.under_way import beginning, read_until
from tests.waiting import COMES_WITHIN, until

from ai_how.errors import InUse
from ai_how.host.lock import host_held
from ai_how.lab import Internet
from ai_how.probe.endpoint import endpoint
from ai_how.probe.packets import ask, tcp, udp
from ai_how.probe.place import here, named
from ai_how.probe.responder import Responder, tap

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Write = Callable[..., Path]
Refused = Callable[..., str]

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def tables() -> set[str]:
    listed = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    return {line for line in listed.splitlines() if line.endswith(" ai_how")}


def nft(*words: str) -> None:
    subprocess.run(["nft", *words], check=True, capture_output=True)


@pytest.fixture
def as_somebody() -> Callable[..., Ran]:
    """`ai-how WORDS…` by somebody whom libvirt lets in, and who may not change the host's network."""

    def call(*words: object) -> Ran:
        ran = subprocess.run(
            ["setpriv", "--bounding-set=-net_admin", "--", sys.executable, "-m", "ai_how", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_DEADLINE,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in ran.stderr
        return ran

    return call


def test_without_root_nothing_is_changed_and_the_exact_command_is_said(
    write: Write,
    as_somebody: Callable[..., Ran],
    look_at_host: Callable[[], dict[str, list[str]]],
    ai_how: AiHow,
) -> None:
    path = write()
    before = look_at_host()
    ran = as_somebody("up", path, "--no-start")
    assert ran.returncode == 4, ran.stderr
    assert "+ nftables table ai_how with the rules of tried" in ran.stderr
    assert "+ setting net.ipv4.ip_forward = 1" in ran.stderr
    assert "network.firewall.enabled: false" in ran.stderr
    assert left(before) == []

    command = next(line for line in ran.stderr.splitlines() if "sudo" in line)
    words = shlex.split(command[command.index("sudo") :])
    assert words[0] == "sudo"
    done = subprocess.run(words[1:], capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE)
    assert done.returncode == 0, done.stderr
    assert tables()

    # Nor may they take rules away; looking is free.
    assert "tried-network active" in as_somebody("status", "tried").stdout
    ran = as_somebody("destroy", "tried", "--yes")
    assert ran.returncode == 4, ran.stderr
    assert "- nftables table ai_how" in ran.stderr
    assert tables()
    assert ai_how("destroy", "tried", "--yes").returncode == 0


def test_without_rules_no_root_is_needed_and_nothing_outside_libvirt_is_touched(
    write: Write, as_somebody: Callable[..., Ran], clean_host: None, ai_how: AiHow
) -> None:
    path = write(network={"firewall": {"enabled": False}})
    guarded = write("guarded.yaml", name="guarded", network={"subnet": "10.45.0.0/24"})
    assert ai_how("up", guarded, "--no-start").returncode == 0
    ran = as_somebody("up", path, "--no-start")
    assert ran.returncode == 0, ran.stderr
    assert "outside libvirt" not in ran.stderr
    rules = subprocess.run(["nft", "list", "table", "inet", "ai_how"], check=True, capture_output=True, text=True)
    assert "br-guarded" in rules.stdout
    assert "br-tried" not in rules.stdout
    assert as_somebody("down", "tried", "--timeout", "0").returncode == 0
    assert as_somebody("destroy", "tried", "--yes").returncode == 0
    assert ai_how("destroy", "guarded", "--yes").returncode == 0


@pytest.mark.parametrize("before", ["0", "1"])
def test_destroy_of_the_last_cluster_puts_back_what_there_was(
    before: str, write: Write, ai_how: AiHow, clean_host: None
) -> None:
    was = FORWARDING.read_text()
    FORWARDING.write_text(before)
    try:
        one = write("one.yaml", name="one", network={"subnet": "10.45.0.0/24"})
        two = write("two.yaml", name="two", network={"subnet": "10.46.0.0/24", "dns_mode": "routed"})
        for path in (one, two):
            said = ai_how("up", path, "--no-start")
            assert said.returncode == 0, said.stderr
            assert "on this host, outside libvirt:" in said.stderr
        assert FORWARDING.read_text().strip() == "1"
        assert tables()
        ai_how("destroy", "one", "--yes")
        assert tables()
        assert FORWARDING.read_text().strip() == "1"
        ai_how("destroy", "two", "--yes")
        assert tables() == set()
        assert list(Path("/var/lib/ai-how").glob("*")) == []
        assert FORWARDING.read_text().strip() == before
    finally:
        FORWARDING.write_text(was)


def test_a_table_of_our_name_that_is_not_ours_is_named_and_left_alone(write: Write, refused: Refused) -> None:
    nft("add", "table", "inet", "ai_how")
    try:
        said = refused(3, "up", write())
        assert "firewall ai_how cannot be made" in said
        assert "ai-how did not make" in said
    finally:
        nft("delete", "table", "inet", "ai_how")


def test_a_table_of_ours_that_lost_its_mark_is_refused_before_anything_is_changed(write: Write, ai_how: AiHow) -> None:
    path = write()
    assert ai_how("up", path, "--no-start").returncode == 0
    try:
        nft("flush", "chain", "inet", "ai_how", "made_by_ai_how")
        nft("delete", "chain", "inet", "ai_how", "made_by_ai_how")
        said = ai_how("up", path, "--no-start")
        assert said.returncode == 3
        assert "firewall ai_how cannot be made" in said.stderr
        assert "nft delete table inet ai_how" in said.stderr
        assert "undo" not in said.stderr
        nft("delete", "table", "inet", "ai_how")
        assert ai_how("up", path, "--no-start").returncode == 0
    finally:
        ai_how("destroy", path, "--yes")
        assert tables() == set()


def test_a_host_without_nft_is_told_what_to_install(
    write: Write, ai_how: AiHow, clean_host: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, nothing = write(), tmp_path_factory.mktemp("bin") / "nft"
    nothing.touch()
    program = shutil.which("nft")
    assert program is not None
    subprocess.run(["mount", "-n", "--bind", str(nothing), program], check=True)
    try:
        ran = ai_how("up", path)
    finally:
        subprocess.run(["umount", "-n", program], check=True)
    assert ran.returncode == 3
    assert "apt-get install nftables" in ran.stderr


@pytest.mark.parametrize("wish", ["auto", "systemd-resolved"])
def test_a_resolver_that_is_not_there_is_told_before_anything_is_changed(
    write: Write, refused: Refused, wish: str
) -> None:
    assert shutil.which("resolvectl") is None
    path = write(network={"dns_mode": "shared_dns", "host_resolver": wish})
    said = refused(3, "up", path, "--no-start")
    assert "this host's resolver cannot be told of the clusters' names" in said
    assert "or to none" in said


@pytest.mark.parametrize("address", ["0.0.0.0", "203.0.113.2"])  # noqa: S104 - that is what is looked for
def test_a_port_in_use_is_not_taken_over_and_its_program_is_named(address: str, write: Write, refused: Refused) -> None:
    with socket.create_server((address, 8899)):
        said = refused(3, "up", write(network={"firewall": {"expose": ["8899:tried-controller:80"]}}))
    assert "port 8899/tcp of this host cannot lead to tried-controller" in said
    assert f"process {os.getpid()}" in said


def test_a_port_that_only_the_host_itself_can_reach_is_free_to_be_exposed(write: Write, ai_how: AiHow) -> None:
    with socket.create_server(("127.0.0.1", 8899)):
        ran = ai_how("up", write(network={"firewall": {"expose": ["8899:tried-controller:80"]}}), "--no-start")
    assert ran.returncode == 0, ran.stderr


def test_a_port_that_another_cluster_exposes_is_refused_with_its_place(
    write: Write, ai_how: AiHow, refused: Refused
) -> None:
    def network(name: str, subnet: str) -> dict[str, Any]:
        return {"subnet": subnet, "firewall": {"expose": [f"8899:{name}-controller:80"]}}

    first = ai_how("up", write("a.yaml", name="first", network=network("first", "10.45.0.0/24")), "--no-start")
    assert first.returncode == 0, first.stderr
    said = refused(2, "up", write("b.yaml", name="second", network=network("second", "10.46.0.0/24")))
    assert "port 8899/tcp of the host is exposed by the cluster first" in said
    assert re.search(r"b\.yaml:\d+:\d+", said)


def test_a_peer_that_could_not_be_told_from_another_is_refused(write: Write, ai_how: AiHow, refused: Refused) -> None:
    shared = {"dns_mode": "shared_dns", "host_resolver": "none"}
    first = ai_how("up", write("a.yaml", name="first", network={"subnet": "10.45.0.0/24", **shared}), "--no-start")
    assert first.returncode == 0, first.stderr
    wrong: dict[str, dict[str, Any]] = {
        "the domain first.internal is that of the cluster first": {"domain": "first.internal"},
        "one hides names of the other": {"domain": "x.first.internal"},
        "10.45.0.1 is the gateway of the cluster first": {"dns_servers": ["10.46.0.1", "10.45.0.1"]},
    }
    for said, network in wrong.items():
        path = write("b.yaml", name="second", network={"subnet": "10.46.0.0/24", **shared, **network})
        assert said in refused(2, "up", path)


def test_peers_are_told_of_each_other_while_they_run_and_forget_who_leaves(write: Write, ai_how: AiHow) -> None:
    shared = {"dns_mode": "shared_dns", "host_resolver": "none"}
    paths = {
        name: write(f"{name}.yaml", name=name, network={"subnet": f"10.{i}.0.0/24", **shared})
        for i, name in enumerate(("one", "two"), 45)
    }
    file = Path("/var/lib/libvirt/dnsmasq/ai-how-one-network.servers")
    for path in paths.values():
        ran = ai_how("up", path, "--no-start")
        assert ran.returncode == 0, ran.stderr
    assert "server=/two.internal/10.46.0.1" in file.read_text()
    # A cluster that is stopped is nobody's peer, and one again when it is started.
    assert ai_how("down", "two", "--timeout", "0").returncode == 0
    assert "server=/two.internal/\n" in file.read_text()
    assert ai_how("up", paths["two"], "--no-start").returncode == 0
    assert "server=/two.internal/10.46.0.1" in file.read_text()
    assert ai_how("destroy", "two", "--yes").returncode == 0
    assert "two.internal" not in file.read_text()
    assert ai_how("destroy", "one", "--yes").returncode == 0
    assert not file.exists()


def test_who_comes_while_another_changes_the_host_waits_and_says_so(write: Write) -> None:
    path = write()
    argv = [sys.executable, "-m", "ai_how", "up", str(path), "--no-start"]
    with host_held(lambda: None):
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "another ai-how is changing this host; waiting" in line
        assert process.poll() is None
    said = process.stderr.read()
    assert process.wait(COMMAND_DEADLINE) == 0, said


def test_program_that_a_killed_run_has_started_holds_the_host_until_its_own_end(folder: Path) -> None:
    os.mkfifo(folder / "more")
    program = (
        "import sys; from ai_how.host.lock import host_held; from ai_how.host.process import output\n"
        "with host_held(lambda: None): output(['cat', sys.argv[1]], changes_host=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program, folder / "more"]) as killed, ExitStack() as stack:
        stack.callback(killed.kill)

        def reads() -> bool:
            assert killed.poll() is None, "it has ended by itself"
            stack.callback(os.close, os.open(folder / "more", os.O_WRONLY | os.O_NONBLOCK))
            return True

        until(reads, "the program has started", passing=(OSError,))  # ENXIO, as long as nobody reads (fifo(7))
        killed.kill()
        killed.wait()
        with pytest.raises(InUse), host_held(lambda: None, within=0):
            pass
        stack.close()
        with host_held(lambda: None, within=COMES_WITHIN):
            pass


def test_two_clusters_brought_up_at_once_both_have_their_rules(write: Write) -> None:
    paths = [write(f"{i}.yaml", name=f"at-once-{i}", network={"subnet": f"10.{45 + i}.0.0/24"}) for i in range(3)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "ai_how", "--state", f"{path}.state", "up", str(path), "--no-start"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for path in paths
    ]
    for process in running:
        said = process.communicate(timeout=COMMAND_DEADLINE)[1]
        assert process.returncode == 0, said
    rules = subprocess.run(["nft", "list", "table", "inet", "ai_how"], check=True, capture_output=True, text=True)
    for i in range(3):
        assert f'"br-at-once-{i}"' in rules.stdout


def test_killed_once_its_table_is_there_leaves_nothing_that_the_next_run_does_not_mend(
    write: Write, ai_how: AiHow, clean_host: None
) -> None:
    """The process is killed when its table is there, and its network may be on its way."""
    path = write()
    with beginning("up", path, "--no-start") as process:
        read_until(process, "create firewall")
        process.kill()
    assert tables()
    ran = ai_how("up", path, "--no-start")
    assert ran.returncode == 0, ran.stderr
    assert "was cut off" in ran.stderr
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert tables() == set()


@pytest.mark.parametrize("damage", ["flushed", "deleted", "everything", "what the hook loads", "what was applied"])
def test_damaged_rules_are_put_back_by_up_and_leave_nothing_behind(
    damage: str, write: Write, ai_how: AiHow, clean_host: None
) -> None:
    path, memory = write(), Path("/var/lib/ai-how")

    def harm() -> None:
        match damage:
            case "flushed":
                nft("flush", "table", "inet", "ai_how")
            case "deleted":
                nft("delete", "table", "arp", "ai_how")
            case "everything":
                for family in ("inet", "arp", "bridge"):
                    nft("delete", "table", family, "ai_how")
            case "what the hook loads":
                (memory / "firewall.json").write_text("{}")
            case _:
                (memory / "firewall-applied.json").write_bytes(b"\xff{")

    assert ai_how("up", path, "--no-start").returncode == 0
    harm()
    ran = ai_how("up", path, "--no-start")
    assert ran.returncode == 0, ran.stderr
    assert "~ firewall ai_how" in ran.stderr
    assert "nothing to do" in ai_how("up", path, "--no-start").stdout
    harm()
    ran = ai_how("destroy", path, "--yes")
    assert ran.returncode == 0, ran.stderr
    assert list(memory.glob("*")) == []
    assert tables() == set()


def test_routed_cluster_says_which_ways_back_the_lan_needs(write: Write, ai_how: AiHow) -> None:
    routed = {"dns_mode": "routed", "nat": False, "routes": [{"to": "10.50.0.0/16", "via": "203.0.113.1"}]}
    ran = ai_how("up", write(network=routed), "--no-start")
    assert ran.returncode == 0, ran.stderr
    assert "ip route add 10.44.0.0/24 via 203.0.113.2" in ran.stderr
    listed = subprocess.run(["ip", "route", "show", "10.50.0.0/16"], check=True, capture_output=True, text=True).stdout
    assert "via 203.0.113.1" in listed
    assert ai_how("destroy", "tried", "--yes").returncode == 0
    assert not subprocess.run(["ip", "route", "show", "10.50.0.0/16"], check=True, capture_output=True).stdout


def test_what_is_for_a_peer_that_is_away_does_not_go_out_by_the_uplink(
    write: Write, ai_how: AiHow, virsh: Callable[..., str], internet: Internet
) -> None:
    shared = {"dns_mode": "shared_dns", "host_resolver": "none"}
    for i, name in enumerate(("one", "two"), 45):
        path = write(f"{name}.yaml", name=name, network={"subnet": f"10.{i}.0.0/24", **shared})
        assert ai_how("up", path, "--no-start").returncode == 0
    away, elsewhere = IPv4Address("10.46.0.2"), IPv4Address("10.47.0.2")
    with ExitStack() as stack:
        node = stack.enter_context(endpoint("br-one", "52:54:00:00:45:02"))
        outside, host = stack.enter_context(named(internet.namespace)), stack.enter_context(here())
        seen = stack.enter_context(tap(outside, internet.uplink))
        virsh("net-destroy", "two-network")
        for place in (node.place, host):
            # A private network that is nobody's goes the way of everything: what is seen there is seen.
            nobodys, peers = ask(udp(place, elsewhere, 53)), ask(udp(place, away, 53))
            assert seen.saw(nobodys.token)
            assert not peers.replied
            assert not seen.saw(peers.token)


def test_a_network_behind_a_node_is_reached_through_it(write: Write, ai_how: AiHow, internet: Internet) -> None:
    routes = [{"to": "10.60.0.0/16", "via": "10.44.0.2"}]
    lan = {"firewall": {"allow_from": [str(internet.uplink_address.network)]}}
    path = write(network={"dns_mode": "routed", "routes": routes, **lan})
    assert ai_how("up", path, "--no-start").returncode == 0
    behind, nobodys = IPv4Address("10.60.0.1"), IPv4Address("10.61.0.1")
    mac = json.loads(ai_how("status", "tried", "--json").stdout)["nodes"][0]["mac"]
    outside = ["ip", "-netns", internet.namespace, "route"]
    ways = [["10.60.0.0/15", "via", str(internet.uplink_address.ip)]]
    with ExitStack() as stack:
        node = stack.enter_context(endpoint("br-tried", mac))
        lan_machine = stack.enter_context(named(internet.namespace))
        for address in (behind, nobodys):
            node.place.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
        stack.enter_context(Responder()).listen(node.place, 7777)
        for way in ways:
            subprocess.run([*outside, "add", *way], check=True)
            stack.callback(subprocess.run, [*outside, "del", *way], check=True)
        assert ask(tcp(lan_machine, behind, 7777, within=COMES_WITHIN)).replied
        assert not ask(tcp(lan_machine, nobodys, 7777)).replied


def test_tables_of_others_that_nft_stumbles_over_are_no_failure(write: Write, ai_how: AiHow) -> None:
    """nft 1.0.6 says rubbish, or breaks, where it lists tables with flags as JSON."""
    for table in ("inet others", "ip odd"):
        nft(f"add table {table} {{ flags dormant; }}")
    try:
        ran = ai_how("up", write(), "--no-start")
    finally:
        for table in ("inet others", "ip odd"):
            nft(f"delete table {table}")
    assert ran.returncode == 0, ran.stderr
