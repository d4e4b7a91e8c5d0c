"""`ai-how why-not` names what stops a packet. Each case has its control: the same, or nearly the same, passes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from ai_how.config.load import load_mapping
from ai_how.engine import cluster as engine
from ai_how.errors import InUse, UsageError
from ai_how.host import foreign_firewalls
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.lab import Internet
from ai_how.probe.endpoint import PREFIX
from ai_how.probe.ends import read_target, why_not
from ai_how.probe.path import Cause, PacketPath, Stop
from ai_how.probe.place import here
from ai_how.probe.responder import Responder
from ai_how.probe.trace import Direction, Verdict
from ai_how.resources.firewall import TRACES

Ran = subprocess.CompletedProcess[str]

#: alpha is isolated, beta may open no connections, gamma has libvirt's rules alone, delta's nodes are routers.
CLUSTERS: dict[str, dict[str, Any]] = {
    "alpha": {
        "firewall": {
            "block_networks": ["198.51.100.0/24"],
            "expose": ["8080:alpha-controller:80"],
            "allow_host_ports": [7799],
        }
    },
    "beta": {"firewall": {"egress": "deny"}},
    "gamma": {"firewall": {"enabled": False}},
    "delta": {"dns_mode": "routed", "routes": [{"to": "10.90.0.0/24", "via": "10.84.0.2"}]},
}
GATEWAY = IPv4Address("10.81.0.1")
DOCKER = """*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER-USER -j RETURN
COMMIT
"""


@pytest.fixture(scope="module")
def libvirt(machine_room: None, blank_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    """A libvirt with all clusters up, without their machines."""
    machine = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}
    document = load_mapping(
        {
            "clusters": {
                name: {
                    "name": name,
                    "base_image_path": str(blank_image),
                    "network": {"subnet": f"10.8{number}.0.0/24", "bridge": f"br-{name}", **network},
                    "controller": machine,
                    "compute_nodes": [machine],
                }
                for number, (name, network) in enumerate(CLUSTERS.items(), 1)
            }
        }
    )
    with Libvirt() as connected:
        site = engine.Site(connected, tmp_path_factory.mktemp("state") / "state.json")
        try:
            for name in CLUSTERS:
                engine.up(site, document, name, start=False, wait=False)
            yield connected
        finally:
            for name in CLUSTERS:
                engine.destroy(site, name)


@pytest.fixture
def asked(libvirt: Libvirt) -> Callable[[str, str], PacketPath]:
    def ask(sender: str, target: str) -> PacketPath:
        return why_not(libvirt, sender, read_target(target)).path

    return ask


Asked = Callable[[str, str], PacketPath]


def run(*argv: str, text: str = "") -> str:
    return subprocess.run(argv, input=text, check=True, capture_output=True, text=True).stdout


def passes(path: PacketPath) -> PacketPath:
    assert path.passes, path
    assert path.hops
    return path


def stopped(path: PacketPath, cause: Cause) -> Stop:
    assert path.end is not None, path
    assert path.end.cause is cause, path.end
    return path.end


def by_rule(path: PacketPath, owner: str, chain: str) -> Stop:
    """The rule is named with all that finds it again, and it is the last thing that happened to the packet."""
    end = stopped(path, Cause.RULE)
    assert end.rule is not None
    assert (end.owner, end.rule.chain) == (owner, chain), end
    dropped = [each for each in path.hops if each.verdict is Verdict.DROP]
    assert [each.where for each in dropped] == [f"{end.rule.family} {end.rule.table} {chain}"]
    if end.rule.text:
        listed = run("nft", "-a", "list", "chain", end.rule.family, end.rule.table, chain)
        assert f"# handle {end.rule.handle}\n" in listed
    return end


def denied(path: PacketPath, word: str) -> Stop:
    """By a rule of ours with that word."""
    end = by_rule(path, "ai-how", path.end.rule.chain if path.end is not None and path.end.rule is not None else "")
    assert end.rule is not None
    assert end.rule.comment == word
    return end


@contextmanager
def setting(path: str, value: str) -> Iterator[None]:
    file = Path("/proc/sys", path)
    before = file.read_text()
    file.write_text(value)
    try:
        yield
    finally:
        file.write_text(before)


def test_another_cluster_is_named_with_the_mode_that_would_join_them(asked: Asked) -> None:
    end = denied(asked("alpha-controller", "beta-controller"), "other-cluster")
    assert end.remedy[0].startswith("alpha and beta: network.dns_mode: shared_dns")
    neighbour = passes(asked("alpha-controller", "alpha-compute-01"))
    assert {each.direction for each in neighbour.hops} == {Direction.REQUEST, Direction.REPLY}


def test_a_blocked_network_is_named_as_it_is_configured(asked: Asked, internet: Internet) -> None:
    end = denied(asked("alpha-controller", f"{internet.web}:80"), "blocked-network")
    assert end.remedy == ("alpha: network.firewall.block_networks: without 198.51.100.0/24",)
    way = passes(asked("alpha-controller", str(internet.resolvers[0])))
    assert "has 203.0.113.2 as its source from here on" in [each.what for each in way.hops]


def test_denied_egress_is_named_with_the_address_to_allow(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    end = denied(asked("beta-controller", target), "egress")
    assert end.remedy == (f"beta: network.firewall.allow_networks: [{target}], or egress: allow",)
    passes(asked("alpha-controller", target))


def test_a_service_of_the_host_is_named_with_the_port_to_allow(asked: Asked) -> None:
    end = denied(asked("alpha-controller", "gateway:22"), "host-service")
    assert end.remedy[0].startswith("alpha: network.firewall.allow_host_ports: [22/tcp]")
    passes(asked("alpha-controller", "gateway"))


def test_a_node_is_shut_from_outside_but_for_what_is_exposed(asked: Asked) -> None:
    end = denied(asked("outside", "alpha-controller:22"), "into-cluster")
    assert "alpha: network.firewall.allow_from: [203.0.113.1]" in end.remedy
    way = passes(asked("outside", "host:8080"))
    assert "is led to 10.81.0.2:80" in [each.what for each in way.hops]


def test_a_gateway_is_shut_from_outside_and_the_host_is_not(asked: Asked) -> None:
    denied(asked("outside", str(GATEWAY)), "gateway-from-outside")
    passes(asked("outside", "host"))


def test_libvirts_own_reject_is_named(asked: Asked, internet: Internet) -> None:
    end = by_rule(asked("outside", "gamma-controller"), "libvirt", "LIBVIRT_FWI")
    assert end.remedy[0].startswith("gamma: network.firewall.enabled: true")
    passes(asked("gamma-controller", str(internet.resolvers[0])))


def test_dockers_policy_is_named_and_what_is_proposed_opens_it(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    run("iptables-restore", "--noflush", text=DOCKER)
    try:
        end = by_rule(asked("delta-controller", target), "Docker", "FORWARD")
        commands = [each for each in end.remedy if each.startswith("iptables ")]
        for each in commands:
            run(*each.split())
        passes(asked("delta-controller", target))
        assert commands
    finally:
        run("iptables", "-P", "FORWARD", "ACCEPT")
        for verb, chain in (("-D", "FORWARD"), ("-F", "DOCKER-USER"), ("-X", "DOCKER-USER")):
            run("iptables", verb, chain, *(["-j", "DOCKER-USER"] if verb == "-D" else []))
        run("iptables", "-D", "FORWARD", "-o", "docker0", "-j", "DOCKER")
        run("iptables", "-X", "DOCKER")


def inserted(end: Stop) -> str:
    """What nft is proposed to be told."""
    return next(each.split("'")[1] for each in end.remedy if "insert" in each)


def test_somebodys_rule_is_named_and_what_is_proposed_opens_it(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    run("nft", "add table inet site; add chain inet site fwd_ { type filter hook forward priority 10; }")
    try:
        passes(asked("alpha-controller", f"{target}:53"))
        run("nft", 'add rule inet site fwd_ meta l4proto tcp drop comment "no tcp here"')
        end = by_rule(asked("alpha-controller", f"{target}:53"), "somebody else", "fwd_")
        assert end.what == 'meta l4proto tcp drop comment "no tcp here"'
        run("nft", inserted(end))
        # It stops what comes back as well, which is the next thing to open.
        end = by_rule(asked("alpha-controller", f"{target}:53"), "somebody else", "fwd_")
        assert end.direction is Direction.REPLY
        run("nft", inserted(end))
        passes(asked("alpha-controller", f"{target}:53"))
    finally:
        run("nft", "delete table inet site")


def test_a_rule_that_stops_the_reply_is_named_as_that(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    run("nft", "add table inet site; add chain inet site fwd_ { type filter hook forward priority 10; }")
    try:
        run("nft", f"add rule inet site fwd_ ip saddr {target} drop")
        end = by_rule(asked("alpha-controller", target), "somebody else", "fwd_")
        assert end.direction is Direction.REPLY
        assert str(end).startswith("the reply: ")
    finally:
        run("nft", "delete table inet site")
    passes(asked("alpha-controller", target))


def test_a_rule_of_the_old_iptables_is_named_too(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    run("iptables-legacy", "-I", "FORWARD", "-d", target, "-j", "DROP")
    try:
        end = stopped(asked("alpha-controller", target), Cause.RULE)
        assert end.where == "iptables-legacy filter FORWARD"
        assert end.rule is not None
        assert end.rule.text == f"-A FORWARD -d {target}/32 -j DROP"
        run(*end.remedy[0].split())
        passes(asked("alpha-controller", target))
    finally:
        run("iptables-legacy", "-F", "FORWARD")


def test_a_host_that_does_not_forward_is_named(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    with setting("net/ipv4/ip_forward", "0"):
        end = stopped(asked("alpha-controller", target), Cause.FORWARDING)
        assert "sysctl -w net.ipv4.ip_forward=1" in end.remedy
    passes(asked("alpha-controller", target))


def test_a_missing_route_is_named(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    run("ip", "route", "del", "default")
    try:
        end = stopped(asked("alpha-controller", target), Cause.ROUTE)
        assert f"there is no way to {target}: Network is unreachable" in str(end)
    finally:
        run("ip", "route", "add", "default", "via", str(internet.router))
    passes(asked("alpha-controller", target))


def test_a_source_that_is_not_believed_is_named(asked: Asked, internet: Internet) -> None:
    """Its way back leads elsewhere, and rp_filter is on."""
    passes(asked("outside", "host"))
    run("ip", "route", "add", str(internet.router), "dev", "br-beta")
    try:
        with setting(f"net/ipv4/conf/{internet.uplink}/rp_filter", "1"):
            end = stopped(asked("outside", str(internet.uplink_address.ip)), Cause.SOURCE)
            assert internet.uplink in end.what
    finally:
        run("ip", "route", "del", str(internet.router), "dev", "br-beta")


def test_missing_masquerading_is_named_where_nobody_answers(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    run("nft", "flush chain inet ai_how postrouting")
    try:
        # No ping: all of this process have one number, and the kernel still translates the one before.
        end = stopped(asked("alpha-controller", f"{target}:53"), Cause.SILENCE)
        assert "10.81.0.2, which is not masqueraded" in end.what
    finally:
        run("nft", "add rule inet ai_how postrouting ip saddr @masqueraded oifname != @bridges masquerade")
    passes(asked("alpha-controller", target))


def test_a_port_where_nobody_listens_is_no_firewalls_fault(asked: Asked, internet: Internet) -> None:
    target = str(internet.resolvers[0])
    end = stopped(asked("alpha-controller", "alpha-controller:99"), Cause.REFUSED)
    assert end.where == "alpha-controller"
    end = stopped(asked("alpha-controller", f"{target}:99"), Cause.REFUSED)
    assert f"{target} refused it: nothing listens on port 99" in end.what
    passes(asked("alpha-controller", f"{target}:53"))
    end = stopped(asked("alpha-controller", "gateway:7799"), Cause.REFUSED)
    assert "this host at 10.81.0.1 refused it" in end.what
    with here() as host, Responder() as responder:
        responder.listen(host, 7799, GATEWAY)
        passes(asked("alpha-controller", "gateway:7799"))
        stopped(asked("alpha-controller", "gateway:7798"), Cause.RULE)


def test_a_name_of_another_cluster_is_denied_and_ones_own_is_not(asked: Asked) -> None:
    end = stopped(asked("alpha-controller", "beta-controller.beta.internal"), Cause.NAME)
    assert "beta.internal is the zone of cluster beta" in end.what
    passes(asked("alpha-controller", "alpha-compute-01.alpha.internal"))


def test_a_host_that_answers_no_ping_has_taken_it(asked: Asked) -> None:
    with setting("net/ipv4/icmp_echo_ignore_all", "1"):
        end = stopped(asked("alpha-controller", "gateway"), Cause.SILENCE)
        assert "it was delivered to this host" in end.what
    passes(asked("alpha-controller", "gateway"))


def test_a_bridge_that_is_down_is_named(asked: Asked) -> None:
    run("ip", "link", "set", "br-beta", "down")
    try:
        end = stopped(asked("beta", "gateway"), Cause.LINK)
        assert (end.where, end.what) == ("br-beta", "the bridge is down")
    finally:
        run("ip", "link", "set", "br-beta", "up")
    passes(asked("beta", "gateway"))


def test_a_dead_dhcp_server_is_named(asked: Asked) -> None:
    server = int(Path("/run/libvirt/network/beta-network.pid").read_text())
    os.kill(server, signal.SIGSTOP)
    try:
        end = stopped(asked("beta", "gateway"), Cause.ADDRESS)
        assert end.where == "br-beta"
        assert "gets no address" in end.what
    finally:
        os.kill(server, signal.SIGCONT)
    passes(asked("beta", "gateway"))


@contextmanager
def machine(name: str) -> Iterator[str]:
    """The machine runs, for the length of a `with` block, with nothing on its disk; the name of its tap."""
    run("virsh", "start", name)
    try:
        yield run("virsh", "-q", "domiflist", name).split()[0]
    finally:
        run("virsh", "destroy", name)


def test_a_machine_that_is_silent_off_its_bridge_or_paused_is_told_apart(asked: Asked) -> None:
    with machine("alpha-compute-01") as tap:
        end = stopped(asked("alpha-controller", "alpha-compute-01"), Cause.NEIGHBOUR)
        assert end.where == "br-alpha"
        run("ip", "link", "set", tap, "nomaster")
        for pair in (("alpha-controller", "alpha-compute-01"), ("alpha-compute-01", "gateway")):
            end = stopped(asked(*pair), Cause.LINK)
            assert (end.where, end.what) == ("alpha-compute-01", "the link of its machine is not a port of br-alpha")
        run("ip", "link", "set", tap, "master", "br-alpha")
        run("virsh", "suspend", "alpha-compute-01")
        end = stopped(asked("alpha-controller", "alpha-compute-01"), Cause.SILENCE)
        assert end.remedy == ("virsh resume alpha-compute-01",)
    passes(asked("alpha-controller", "alpha-compute-01"))


def test_the_command_says_the_way_and_the_verdict(
    libvirt: Libvirt, ai_how: Callable[..., Ran], internet: Internet, folder: Path
) -> None:
    target = str(internet.resolvers[0])
    good = ai_how("why-not", "alpha-controller", target)
    assert good.returncode == 0
    assert f"alpha-controller → {target}: passes" in good.stdout
    assert "is routed from br-alpha to uplink" in good.stdout
    bad = ai_how("why-not", "beta-controller", target, "--json")
    assert bad.returncode == 1
    said = json.loads(bad.stdout)
    assert (said["passes"], said["stop"]["owner"], said["stop"]["rule"]["comment"]) == (False, "ai-how", "egress")
    assert said["source"] == "10.82.0.2"


def test_names_that_fit_nothing_are_refused_with_the_nearest(libvirt: Libvirt, refused: Callable[..., str]) -> None:
    assert "Did you mean alpha-controller?" in refused(2, "why-not", "alpha-contoller", "gateway")


@pytest.mark.parametrize(
    ("sender", "target", "says"),
    [
        ("alpha", "alpha-compute-9", "nobody here is called alpha-compute-9"),
        ("controller", "gateway", "controller fits several nodes"),
        ("host", "gateway", "host is in no cluster"),
        ("alpha", "beta", "beta is a cluster, and no address"),
        ("alpha", "a..b", "is no target"),
        ("alpha", "gateway:99999", "is no target"),
        ("alpha", "fe80::1", "IPv6 stays within its cluster"),
    ],
)
def test_what_is_no_end_is_refused(asked: Asked, sender: str, target: str, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        asked(sender, target)
    assert says in str(refusal.value)


def test_nobody_else_is_a_node_while_one_is_stood_for(libvirt: Libvirt, asked: Asked) -> None:
    with held(libvirt.uri, "alpha"):
        for pair in (("alpha-controller", "gateway"), ("host", "alpha-controller")):
            with pytest.raises(InUse):
                asked(*pair)
        passes(asked("alpha", "gateway"))  # a stand-in is nobody's double
    passes(asked("alpha-controller", "alpha-compute-01"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_of_a_trace_that_is_ended(libvirt: Libvirt, how: signal.Signals, folder: Path) -> None:
    argv = [sys.executable, "-m", "ai_how", "why-not", "outside", "alpha-controller:22"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        until(lambda: TRACES in run("nft", "list", "tables"), "the trace")
        os.kill(running.pid, signal.SIGSTOP)  # it does not come to its end before it is ended
        assert foreign_firewalls.look().unread == ()
        os.kill(running.pid, how)
        os.kill(running.pid, signal.SIGCONT)
        code = running.wait()
    assert code == (130 if how is not signal.SIGKILL else -signal.SIGKILL)
    until(lambda: TRACES not in run("nft", "list", "tables"), "the end of the trace")
    links = Path("/sys/class/net")
    until(lambda: not [each for each in links.iterdir() if each.name.startswith(PREFIX)], "the end of our links")
    until(lambda: not list(tracers()), "the end of nft")


def tracers() -> Iterator[str]:
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = each.read_bytes().split(b"\0")
            if words[0].endswith(b"nft"):
                yield str(words)
