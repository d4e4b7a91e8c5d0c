"""Names of clusters that share them: real networks, their dnsmasq, and machines that ask."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from tests.host_view import HostView, left, without_pid_files
from tests.lab.naming import WITHOUT_A_TIMEOUT, Answer, Up, cluster, compiled, counting, up, wait_for_gateway

from ai_how.host import dnsmasq, told
from ai_how.host.libvirt import Libvirt
from ai_how.lab import Internet
from ai_how.providers import network as networks
from ai_how.providers import servers
from ai_how.resources.servers import Servers, servers_path


@pytest.fixture
def leaving(libvirt_uri: str) -> Iterator[Callable[[], int]]:
    """How many packets with questions have left the host since this was last asked."""
    with counting() as count:
        yield count


def test_all_is_gone_afterwards(look_at_host: Callable[[], HostView]) -> None:
    def look() -> HostView:
        return without_pid_files(look_at_host())

    with up(cluster("passing-a", "10.73.0.0/24")):
        pass  # libvirt keeps directories of its own after the first network
    before = look()
    with up(cluster("passing-a", "10.73.0.0/24"), cluster("passing-b", "10.74.0.0/24")) as made:
        assert made["passing-a"].asks("passing-b-controller.passing-b.internal")[0].found == ["10.74.0.2"]
    assert left(before, look) == []


@pytest.fixture(scope="module")
def pair(libvirt_uri: str) -> Iterator[Up]:
    """Two clusters that share their names, and one that does not."""
    with up(
        cluster("names-a", "10.61.0.0/24"),
        cluster("names-b", "10.62.0.0/24", mode="shared_dns"),
        cluster("names-c", "10.63.0.0/24", mode="isolated"),
    ) as made:
        yield made


def node(answers: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    return [(each.rcode, each.found) for each in answers]


def test_nodes_resolve_names_and_addresses_of_their_own_and_of_their_peers_both_ways(pair: Up) -> None:
    for asker in ("names-a", "names-b"):
        assert node(
            pair[asker].asks(
                "names-a-controller.names-a.internal",
                "names-b-compute-01.names-b.internal",
                "10.61.0.2",
                "10.62.0.10",
            )
        ) == [
            ("NOERROR", ["10.61.0.2"]),
            ("NOERROR", ["10.62.0.10"]),
            ("NOERROR", ["names-a-controller.names-a.internal."]),
            ("NOERROR", ["names-b-compute-01.names-b.internal."]),
        ]


def test_routed_clusters_know_each_others_names_and_not_those_of_another_mode(libvirt_uri: str) -> None:
    routed = (cluster("way-a", "10.75.0.0/24", "routed"), cluster("way-b", "10.76.0.0/20", "routed"))
    with up(*routed, cluster("other", "10.77.0.0/24")) as made:
        for asker in ("way-a", "way-b"):
            assert node(made[asker].asks("way-a-controller.way-a.internal", "10.76.0.2")) == [
                ("NOERROR", ["10.75.0.2"]),
                ("NOERROR", ["way-b-controller.way-b.internal."]),
            ]
            assert made[asker].asks("other-controller.other.internal")[0].found != ["10.77.0.2"]
        assert made["other"].asks("way-a-controller.way-a.internal")[0].found != ["10.75.0.2"]
        assert made["other"].asks("other-controller.other.internal")[0].found == ["10.77.0.2"]


UNKNOWN = ("nobody.{0}.internal", "nobody.{0}.internal/AAAA", "a.b.{0}.internal", "_x._tcp.{0}.internal/SRV", "{1}.77")


@pytest.mark.parametrize(("zone", "subnet"), [("names-a", "10.61.0"), ("names-b", "10.62.0")])
def test_what_a_zone_of_ours_does_not_have_is_denied_at_once_and_asked_of_nobody_outside(
    pair: Up, internet: Internet, leaving: Callable[[], int], zone: str, subnet: str
) -> None:
    leaving()
    for asker in ("names-a", "names-b"):
        answers = pair[asker].asks(*(each.format(zone, subnet) for each in UNKNOWN))
        assert node(answers) == [("NXDOMAIN", [])] * len(UNKNOWN)
        assert max(each.seconds for each in answers) < WITHOUT_A_TIMEOUT
    assert leaving() == 0
    # The control: names that are not ours are asked for outside, and counted.
    assert node(pair["names-a"].asks(f"{zone}.{internet.name}")) == [("NOERROR", [str(internet.web)])]
    assert leaving() > 0


def test_a_known_name_without_data_of_the_type_stays_here(pair: Up, leaving: Callable[[], int]) -> None:
    kinds = ("AAAA", "MX", "TXT", "HTTPS")
    leaving()
    for asker in ("names-a", "names-b"):
        answers = pair[asker].asks(*(f"names-b-controller.names-b.internal/{kind}" for kind in kinds))
        assert node(answers) == [("NOERROR", [])] * len(kinds)
    assert leaving() == 0


def test_a_cluster_in_another_mode_neither_learns_names_nor_gives_its_own_and_none_of_them_is_asked_for_outside(
    pair: Up, leaving: Callable[[], int]
) -> None:
    leaving()
    denied: list[tuple[str, list[str]]] = [("NXDOMAIN", [])] * 2
    assert node(pair["names-c"].asks("names-a-controller.names-a.internal", "10.61.0.2")) == denied
    assert node(pair["names-a"].asks("names-c-controller.names-c.internal", "10.63.0.2")) == denied
    assert node(pair["names-c"].asks("names-c-controller.names-c.internal")) == [("NOERROR", ["10.63.0.2"])]
    assert leaving() == 0


def test_the_hosts_own_file_is_not_served(pair: Up, internet: Internet) -> None:
    hosts = Path("/etc/hosts")
    before = hosts.read_text()
    hosts.write_text(before + "192.0.2.7 secret.names-a.internal secret.example\n")
    try:
        assert dnsmasq.reload_network(pair.networks["names-a"].name)
        answers = pair["names-a"].asks("secret.names-a.internal", "secret.example", "192.0.2.7")
    finally:
        hosts.write_text(before)
    assert node(answers)[:2] == [("NXDOMAIN", []), ("NOERROR", [str(internet.web)])]
    assert not any("secret" in each for each in answers[2].found)


@pytest.mark.parametrize("prefix", [20, 24, 25, 26])
def test_addresses_of_ours_without_a_name_are_denied_here_whatever_the_size_of_the_subnet(
    libvirt_uri: str, leaving: Callable[[], int], prefix: int
) -> None:
    subnet = IPv4Network(f"10.64.16.0/{prefix}")
    inside = [str(each) for each in (subnet[40], subnet[-2], subnet[subnet.num_addresses // 2])]
    outside = str(subnet.broadcast_address + 1)
    with up(cluster("sized", str(subnet)), cluster("other", "10.65.0.0/24")) as made:
        leaving()
        for asker in ("sized", "other"):
            answers = made[asker].asks(*inside, str(subnet[2]))
            assert node(answers[:-1]) == [("NXDOMAIN", [])] * len(inside)
            assert answers[-1].found == ["sized-controller.sized.internal."]
            assert max(each.seconds for each in answers) < WITHOUT_A_TIMEOUT
        assert leaving() == 0
        made["sized"].asks(outside)
        assert leaving() > 0


def test_peers_in_one_24_answer_each_for_their_half(libvirt_uri: str, leaving: Callable[[], int]) -> None:
    with up(cluster("low", "10.66.0.0/25"), cluster("high", "10.66.0.128/25")) as made:
        leaving()
        for asker in ("low", "high"):
            answers = made[asker].asks("10.66.0.2", "10.66.0.130", "10.66.0.60", "10.66.0.200")
            assert node(answers) == [
                ("NOERROR", ["low-controller.low.internal."]),
                ("NOERROR", ["high-controller.high.internal."]),
                ("NXDOMAIN", []),
                ("NXDOMAIN", []),
            ]
        assert leaving() == 0


def test_a_dead_first_server_costs_nobody_a_timeout(libvirt_uri: str, internet: Internet) -> None:
    dead = "203.0.113.99"
    listed = ["10.67.0.1", dead, "8.8.8.8"]
    with up(cluster("patient", "10.67.0.0/24", mode="isolated", dns_servers=listed)) as made:
        machine = made["patient"]
        answers = machine.asks(*(f"{number}.{internet.name}" for number in range(4)))
        assert {each.rcode for each in answers} == {"NOERROR"}
        assert max(each.seconds for each in answers) < WITHOUT_A_TIMEOUT
        assert node(machine.asks(internet.name, server=dead)) == [("TIMEOUT", [])]


@pytest.mark.parametrize("mode", ["isolated", "shared_dns"])
def test_two_gateways_that_name_each_other_as_servers_form_no_loop(
    libvirt_uri: str, internet: Internet, mode: str
) -> None:
    """In one configuration that is refused; in two, neither knows of the other."""
    one = cluster("loop-a", "10.68.0.0/24", mode, dns_servers=["10.68.0.1", "10.69.0.1"])
    two = cluster("loop-b", "10.69.0.0/24", mode, dns_servers=["10.69.0.1", "10.68.0.1"])
    with up(one) as first, up(two) as second:
        for name, machine in (("loop-a", first["loop-a"]), ("loop-b", second["loop-b"])):
            (said,) = machine.asks(f"{name}.{internet.name}")
            assert (said.rcode, said.found) == ("REFUSED", [])
            assert said.seconds < WITHOUT_A_TIMEOUT
            assert machine.asks(f"{name}-controller.{name}.internal")[0].rcode == "NOERROR"


def test_a_gateway_is_never_its_own_forwarder(pair: Up) -> None:
    for network in pair.networks.values():
        text = Path(servers_path(network.name)).read_text()
        assert "server=8.8.8.8" in text.splitlines()
        assert not [line for line in text.splitlines() if line.startswith("server=") and str(network.gateway) in line]


# The file itself


def observed(libvirt: Libvirt, network: str) -> Servers | None:
    return next((each for each in servers.observe(libvirt, "") if each.network == network), None)


def process(network: str) -> int:
    return int(Path(f"/run/libvirt/network/{network}.pid").read_text())


def test_peers_that_join_and_leave_change_answers_at_once_and_without_a_restart(libvirt_uri: str) -> None:
    first, second = cluster("early", "10.70.0.0/24"), cluster("late", "10.71.0.0/24")
    name = "late-controller.late.internal"
    alone = compiled([first])[1][0]
    with up(first) as made:
        running = process("early-network")
        assert made["early"].asks(name)[0].found != ["10.71.0.2"]
        with up(second):
            together = next(each for each in compiled([first, second])[1] if each.network == "early-network")
            servers.change(made.libvirt, alone, together)
            assert observed(made.libvirt, "early-network") == together
            assert made["early"].asks(name, "10.71.0.2")[0].found == ["10.71.0.2"]
            servers.change(made.libvirt, together, alone)
        assert observed(made.libvirt, "early-network") == alone
        assert made["early"].asks(name)[0].found != ["10.71.0.2"]
        assert process("early-network") == running


def test_a_network_that_started_without_its_file_reads_it_once_it_is_there(libvirt_uri: str) -> None:
    first, second = cluster("fileless", "10.72.0.0/24"), cluster("late", "10.71.0.0/24")
    name = "late-controller.late.internal"
    file = next(each for each in compiled([first, second])[1] if each.network == "fileless-network")
    with up(first) as made, up(second):
        servers.remove(made.libvirt, file)
        networks.remove(made.libvirt, made.networks["fileless"])
        networks.create(made.libvirt, made.networks["fileless"])
        subprocess.run(["ip", "link", "set", "of-fileless", "master", "br-fileless"], check=True)
        wait_for_gateway(made.networks["fileless"])
        assert made["fileless"].asks(name)[0].found != ["10.71.0.2"]
        servers.create(made.libvirt, file)
        assert made["fileless"].asks(name)[0].found == ["10.71.0.2"]


def test_what_dnsmasq_was_not_told_shows_as_a_difference_and_is_told_again(pair: Up) -> None:
    have = observed(pair.libvirt, "names-a-network")
    assert have is not None
    want = Servers(have.network, (*have.lines, "server=/names-c.internal/10.63.0.1"))
    path = Path(servers_path(have.network))
    name = "names-c-controller.names-c.internal"

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        told.tell({path: want.lines}, killed)
    seen = observed(pair.libvirt, have.network)
    assert seen is not None
    assert seen not in (have, want)
    assert pair["names-a"].asks(name)[0].found != ["10.63.0.2"]
    servers.change(pair.libvirt, seen, want)
    assert pair["names-a"].asks(name)[0].found == ["10.63.0.2"]
    servers.change(pair.libvirt, want, have)
    assert observed(pair.libvirt, have.network) == have


def test_a_file_of_somebody_else_is_named_and_left_alone(libvirt_uri: str) -> None:
    path = Path(servers_path("theirs"))
    path.write_text("server=/theirs.example/192.0.2.1\n")
    try:
        with Libvirt() as libvirt:
            assert servers.foreign(libvirt, ["theirs", "free"])["theirs"].endswith(
                f"did not write (what removes it: rm {path})"
            )
            assert "free" not in servers.foreign(libvirt, ["theirs", "free"])
            assert observed(libvirt, "theirs") is None
            servers.remove(libvirt, Servers("theirs", ()))
        assert path.read_text() == "server=/theirs.example/192.0.2.1\n"
    finally:
        path.unlink()


@pytest.mark.parametrize("text", ["", "\n", "\0" * 40, told.MARK[:7]], ids=["empty", "blank", "zeros", "cut"])
def test_a_file_of_ours_that_was_emptied_or_cut_off_is_written_anew_or_removed(libvirt_uri: str, text: str) -> None:
    want, path = Servers("emptied", ()), Path(servers_path("emptied"))
    with Libvirt() as libvirt:
        servers.create(libvirt, want)
        path.write_text(text)
        seen = observed(libvirt, "emptied")
        assert seen is not None
        assert seen != want
        assert servers.foreign(libvirt, ["emptied"]) == {}
        servers.change(libvirt, seen, want)
        assert observed(libvirt, "emptied") == want
        path.write_text(text)
        servers.remove(libvirt, seen)
    assert not path.exists()


def test_a_process_that_is_not_the_networks_dnsmasq_gets_no_signal(pair: Up) -> None:
    pid = Path("/run/libvirt/network/stale.pid")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            for other in (stranger.pid, process("names-a-network"), 2**22):
                pid.write_text(f"{other}\n")
                assert not dnsmasq.reload_network("stale")
            assert stranger.poll() is None
        finally:
            stranger.kill()
            pid.unlink()
