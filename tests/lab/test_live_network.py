"""A network that runs is changed under its nodes: many at a time, and killed in the middle of it.

Nodes are endpoints with the MACs of the nodes. No rules are loaded here; what the provider of networks does is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import COMES_WITHIN, until, until_ended

from ai_how import lab
from ai_how.compile.cluster import compile_network
from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.load import load_mapping
from ai_how.host import dnsmasq, told
from ai_how.host.libvirt import Libvirt
from ai_how.probe.endpoint import Endpoint, endpoint
from ai_how.providers import network as networks
from ai_how.providers import servers
from ai_how.resources.network import Reservation, VirtualNetwork, read_network, read_ranges
from ai_how.resources.servers import File, Servers, file_path
from ai_how.spec.resolve import resolve

NAME, BRIDGE = "live-network", "br-live"

#: What the gateway of argument 1 says of the names that follow, as JSON: the addresses, or None where nobody answers
#: within the seconds of argument 2.
_ASK = """
import json, sys
import dns.exception, dns.message, dns.query
def ask(name):
    try:
        said = dns.query.udp(dns.message.make_query(name, "A"), sys.argv[1], timeout=float(sys.argv[2]))
    except dns.exception.Timeout:
        return None
    return [data.to_text() for answer in said.answer for data in answer]
print(json.dumps([ask(each) for each in sys.argv[3:]]))
"""


def compiled(nodes: int, **network: Any) -> tuple[VirtualNetwork, Servers | None]:
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    cluster = {
        "name": "live",
        "base_image_path": "/dev/null",
        "network": {"subnet": "10.80.0.0/20", "bridge": BRIDGE} | network,
        "controller": machine,
        "compute_nodes": {"count": nodes - 1, **machine},
    }
    made = compile_network(resolve(load_mapping({"clusters": {"live": cluster}}), "live"), active=True)
    files = [each for each in compile_host([made], Surroundings()) if isinstance(each, Servers)]
    return made, files[0] if files else None


@dataclass
class Live:
    """The network while it is up."""

    libvirt: Libvirt
    want: VirtualNetwork

    @property
    def seen(self) -> VirtualNetwork:
        """What the host has."""
        [found] = networks.observe(self.libvirt, "live")
        return found

    @property
    def definition(self) -> VirtualNetwork:
        """libvirt's persistent XML."""
        text = subprocess.run(
            ["virsh", "net-dumpxml", "--inactive", NAME], check=True, capture_output=True, text=True
        ).stdout
        return read_network(text, active=True, autostart=True)

    def become(self, want: VirtualNetwork, files: Servers | None = None) -> float:
        """Change it to that; the seconds that it took."""
        have, begun = self.seen, time.monotonic()
        if files is not None:
            servers.create(self.libvirt, files)
        networks.change(self.libvirt, have, want)
        took = time.monotonic() - begun
        self.want = want
        return took

    def asks(self, *names: str, within: float = 5.0) -> list[list[str] | None]:
        argv = [sys.executable, "-c", _ASK, str(self.want.gateway), str(within), *names]
        found: list[list[str] | None] = json.loads(
            subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        )
        return found

    def assert_says(self, wanted: Mapping[str, list[str]]) -> None:
        """The gateway says that of these names. Its server reads what it was told a moment after it was."""
        until(lambda: self.asks(*wanted) == [*wanted.values()], f"the gateway says {wanted}")

    def assert_names(self, *nodes: Reservation) -> None:
        """Each of `nodes` has its name."""
        self.assert_says({f"{each.name}.live.internal": [str(each.ip)] for each in nodes})

    def assert_serves(self, *nodes: Reservation) -> None:
        """Each of `nodes` has its name and gets its address."""
        self.assert_names(*nodes)
        for each in nodes:
            with machine(each.mac) as node:
                assert node.ip == each.ip

    def assert_true(self) -> None:
        """What is there is what shall be, in what runs and in what is defined."""
        assert self.seen == self.want
        assert self.definition == self.want


def machine(mac: str) -> AbstractContextManager[Endpoint]:
    """One on the network, with its lease."""
    return endpoint(BRIDGE, mac, within=COMES_WITHIN)


@contextlib.contextmanager
def up(nodes: int, **network: Any) -> Iterator[Live]:
    want, files = compiled(nodes, **network)
    with Libvirt() as libvirt:
        try:
            if files is not None:
                servers.create(libvirt, files)
            networks.create(libvirt, want)
            yield Live(libvirt, want)
        finally:
            with Libvirt() as anew:  # it may have been restarted
                networks.remove(anew, want)
                if files is not None:
                    servers.remove(anew, files)


@pytest.fixture
def live(libvirt_uri: str) -> Iterator[Live]:
    with up(3) as found:
        yield found


def process() -> int:
    return int(Path(f"/run/libvirt/network/{NAME}.pid").read_text())


def link() -> str:
    return Path(f"/sys/class/net/{BRIDGE}/ifindex").read_text()


def restart_libvirtd() -> None:
    pid = int(Path("/run/libvirtd.pid").read_text())
    os.kill(pid, 15)
    until_ended(pid)
    subprocess.run(["libvirtd", "--daemon"], check=True)
    subprocess.run(["virsh", "-q", "net-list"], check=True, capture_output=True)


def test_100_nodes_come_to_1000_within_a_second_and_libvirts_definition_is_the_truth(libvirt_uri: str) -> None:
    roomy = {"dhcp_end": "10.80.7.254"}
    more, _ = compiled(1_100, **roomy)
    with up(1_000, **roomy) as live:
        old = {*live.want.reservations}
        new = [each for each in more.reservations if each not in old]
        assert len(new) == 100
        few = (min(old), new[0], new[57], new[-1])
        live.assert_says({f"{new[0].name}.live.internal": []})

        fewer, took = live.want, [live.become(more)]
        live.assert_serves(*few)
        live.assert_true()
        while min(took) >= 1 and len(took) < 5:  # a busy machine may have had others to serve just then
            live.become(fewer)
            took.append(live.become(more))
        assert min(took) < 1

        # What libvirt runs has not heard of them; it reads all that it knows again, and so does dnsmasq.
        restart_libvirtd()
        with Libvirt() as anew:
            live.libvirt = anew
            live.assert_serves(*few)
            live.assert_true()
            networks.change(anew, live.seen, replace(more, active=False))
            networks.change(anew, live.seen, more)
            live.assert_serves(*few)
            live.assert_true()
            # Our files are as they are when somebody else restarts it.
            live.become(replace(more, reservations=more.reservations[:-1], dns_hosts=more.dns_hosts[:-1]))
            live.become(more)
            for verb in ("net-destroy", "net-start"):
                subprocess.run(["virsh", "-q", verb, NAME], check=True)
            live.assert_serves(*few)
            live.assert_true()


def test_a_pool_that_grows_with_its_nodes_is_added_to(libvirt_uri: str) -> None:
    with up(300) as live:
        more, _ = compiled(330)
        assert more.dhcp_ranges != live.want.dhcp_ranges
        live.become(more)
        live.assert_true()
        live.assert_serves(more.reservations[0], more.reservations[-1])
        xml = subprocess.run(["virsh", "net-dumpxml", NAME], check=True, capture_output=True, text=True).stdout
        before = compiled(300)[0].dhcp_ranges
        assert read_ranges(xml) == (*before, (before[-1][1] + 1, more.dhcp_ranges[-1][1]))


def test_what_is_removed_is_gone_and_its_address_is_the_next_ones_at_once(live: Live) -> None:
    grown, _ = compiled(5)
    live.become(grown)
    from_libvirt, from_file = grown.reservations[1], grown.reservations[-1]
    for gone in (from_libvirt, from_file):
        live.assert_names(gone)
        with machine(gone.mac) as node:
            assert node.ip == gone.ip
            left = replace(
                live.want,
                reservations=tuple(each for each in live.want.reservations if each != gone),
                dns_hosts=tuple(each for each in live.want.dns_hosts if each.ip != gone.ip),
            )
            live.become(left)
            live.assert_true()
            live.assert_says({f"{gone.name}.live.internal": []})
            heir = Reservation(gone.ip, f"52:54:00:aa:00:{int(gone.ip) & 255:02x}", f"heir-{int(gone.ip) & 255}")
            names = tuple(sorted((*left.dns_hosts, replace(grown.dns_hosts[0], ip=heir.ip, names=(heir.name,)))))
            live.become(replace(left, reservations=tuple(sorted((*left.reservations, heir))), dns_hosts=names))
            live.assert_serves(heir)
            live.assert_true()


@pytest.mark.parametrize("stopped", [False, True], ids=["while it runs", "while it is stopped"])
def test_two_nodes_exchange_their_addresses(stopped: bool, live: Live) -> None:
    first, second, *rest = compiled(5)[0].reservations
    live.become(replace(compiled(5)[0]))
    with machine(first.mac), machine(second.mac):
        if stopped:  # dnsmasq keeps their leases, of which nothing can be given back now
            live.become(replace(live.want, active=False))
    exchanged = (replace(first, ip=second.ip), replace(second, ip=first.ip))
    names = {each.ip: each for each in live.want.dns_hosts}
    swapped = (replace(names[first.ip], ip=second.ip), replace(names[second.ip], ip=first.ip))
    others = (each for ip, each in names.items() if ip not in (first.ip, second.ip))
    live.become(
        replace(
            live.want,
            active=True,
            reservations=tuple(sorted((*exchanged, *rest))),
            dns_hosts=tuple(sorted((*swapped, *others))),
        )
    )
    live.assert_true()
    live.assert_serves(*exchanged)


def test_a_range_grows_and_shrinks_under_leases(live: Live) -> None:
    strangers = [f"52:54:00:bb:00:{number:02x}" for number in range(4)]
    ranges = ((IPv4Address("10.80.1.0"), IPv4Address("10.80.1.1")),)
    live.become(replace(live.want, dhcp_ranges=ranges))
    live.assert_true()
    bridge = link()
    with contextlib.ExitStack() as stack:
        held = {stack.enter_context(machine(mac)).ip for mac in strangers[:2]}
        assert held == {*ranges[0]}
        live.become(replace(live.want, dhcp_ranges=((ranges[0][0], IPv4Address("10.80.1.3")),)))
        live.assert_true()
        held |= {stack.enter_context(machine(mac)).ip for mac in strangers[2:]}
        assert held == {IPv4Address("10.80.1.0") + number for number in range(4)}
        # To where there is room for the leases that are held: dnsmasq does not start with more than it may have.
        live.become(replace(live.want, dhcp_ranges=((IPv4Address("10.80.2.0"), IPv4Address("10.80.2.3")),)))
        live.assert_true()
    assert link() == bridge
    live.become(compiled(3)[0])
    live.assert_true()
    live.assert_serves(*live.want.reservations)


@pytest.mark.parametrize("killed_at", ["1st write", "2nd write", "reload", "3rd write", "4th write", "definition"])
def test_killed_at_any_point_the_next_change_mends_it(
    live: Live, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    """One node goes that libvirt runs, and two come."""
    made, _ = compiled(5)
    want = replace(made, reservations=made.reservations[1:], dns_hosts=made.dns_hosts[1:])

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        if killed_at == "definition":
            patch.setattr(networks, "_define", _raise(Killed))
        elif killed_at == "reload":
            patch.setattr(dnsmasq, "reload_network", _raise(Killed))
        else:
            patch.setattr(told, "_write", _raise(Killed, from_call=int(killed_at[0]), before=told._write))
        with pytest.raises(Killed):
            networks.change(live.libvirt, live.seen, want)
    assert live.seen != want
    live.become(want)
    live.assert_true()
    live.assert_serves(*want.reservations)
    # And what is as it shall be is left alone.
    assert live.seen == want


def test_killed_while_mending_what_was_told_before_shows_as_a_difference(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is written and defined is right then; only dnsmasq has not read it."""
    live.become(compiled(5)[0])
    node, path = live.want.reservations[-1], Path(file_path(NAME, File.HOSTS))
    path.write_text(f"{told.MARK}.\n")
    dnsmasq.reload_network(NAME)
    with monkeypatch.context() as patch:
        patch.setattr(dnsmasq, "reload_network", _raise(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            networks.change(live.libvirt, live.seen, live.want)
    assert live.seen == replace(live.want, saved=False)
    live.become(live.want)
    live.assert_true()
    live.assert_serves(node)


def _raise(error: type[BaseException], *, from_call: int = 1, before: Callable[..., None] | None = None) -> Any:
    calls = 0

    def killed(*words: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= from_call:
            raise error
        assert before is not None
        before(*words)

    return killed


def test_mode_servers_and_what_lets_in_change_under_running_nodes(live: Live, internet: lab.Internet) -> None:
    before, web = (process(), link()), {internet.name: [str(internet.web)]}
    live.assert_says(web)

    # A server where nobody is, then the other one that answers.
    live.become(*compiled(3, dns_servers=["10.80.0.1", "203.0.113.77"]))
    live.assert_true()
    # A busy machine may lose one answer, and not three in a row.
    until(lambda: live.asks(*[internet.name] * 3, within=2.0) == [None] * 3, "the dead server is asked")
    live.become(*compiled(3, dns_servers=["10.80.0.1", str(internet.resolvers[-1])]))
    live.assert_true()
    live.assert_says(web)

    # The next lease names the servers that nodes ask directly; cluster names go on at the gateway.
    direct = [str(each) for each in internet.resolvers]
    live.become(*compiled(3, dns_servers=direct))
    node = live.want.reservations[0]
    with machine(node.mac) as there:
        assert [str(each) for each in there.lease.dns] == direct
    live.assert_serves(node)
    live.assert_says({internet.name: []})

    consul = {"service_discovery": {"address": "http://192.0.2.7:8500"}}
    for fields in ({"dns_mode": "shared_dns"}, {"dns_mode": "routed"}, {"dns_mode": "service_discovery", **consul}, {}):
        live.become(*compiled(3, **fields))
        live.assert_true()
        live.assert_says(web)
        text = Path(file_path(NAME, File.SERVERS)).read_text()
        assert ("server=/consul/192.0.2.7#8600" in text) is (fields.get("dns_mode") == "service_discovery")
    with machine(node.mac) as there:
        assert there.lease.dns == (live.want.gateway,)
    live.become(*compiled(3, firewall={"expose": ["8022:live-controller:22"], "allow_from": ["198.18.0.0/24"]}))
    live.assert_true()
    assert (process(), link()) == before


def test_an_edit_that_waits_for_the_next_start_is_seen_and_defined_anew_without_a_restart(
    live: Live, tmp_path: Path
) -> None:
    before = (process(), link())
    edited = tmp_path / "network.xml"
    text = subprocess.run(["virsh", "net-dumpxml", NAME], check=True, capture_output=True, text=True).stdout
    for right, wrong in (("10.80.0.1'", "10.80.0.9'"), (live.want.reservations[0].mac, "52:54:00:cc:00:01")):
        assert right in text
        edited.write_text(text.replace(right, wrong))
        subprocess.run(["virsh", "-q", "net-define", str(edited)], check=True)
        assert live.seen == replace(live.want, saved=False)
        live.become(live.want)
        live.assert_true()
    # One that somebody undefined would be gone with the next stop.
    subprocess.run(["virsh", "-q", "net-undefine", NAME], check=True)
    assert live.seen == replace(live.want, saved=False, autostart=False)
    live.become(live.want)
    live.assert_true()
    assert (process(), link()) == before


def test_a_change_of_what_runs_alone_is_seen_and_taken_back(live: Live) -> None:
    node = live.want.reservations[0]
    stranger = f"<host mac='52:54:00:cc:00:02' name='stranger' ip='{live.want.subnet[77]}'/>"
    for command, entry in (("add-last", stranger), ("delete", f"<host mac='{node.mac}' ip='{node.ip}'/>")):
        subprocess.run(["virsh", "-q", "net-update", NAME, command, "ip-dhcp-host", entry, "--live"], check=True)
        assert not live.seen.saved
        live.become(live.want)
        live.assert_true()
    live.assert_serves(node)


@pytest.mark.parametrize("text", [None, "", "52:54:00:00:00:01 is mine\n", f"{told.MARK}.\nnonsense\n"])
def test_a_file_of_nodes_that_was_removed_or_edited_is_seen_and_written_anew(live: Live, text: str | None) -> None:
    grown, _ = compiled(5)
    live.become(grown)
    path = Path(file_path(NAME, File.HOSTS))
    path.unlink() if text is None else path.write_text(text)
    assert live.seen != grown
    live.become(grown)
    live.assert_true()
    live.assert_serves(grown.reservations[-1])


def test_who_stops_a_network_waits_for_the_end_of_its_dnsmasq(live: Live) -> None:
    """libvirt kills it and does not wait; here it is killed a moment later."""
    with dnsmasq.until_ended(NAME):
        threading.Timer(0.5, os.kill, (process(), signal.SIGKILL)).start()
    assert not dnsmasq.serves(NAME)


def test_without_rules_and_root_all_of_it_is_libvirts(libvirt_uri: str) -> None:
    without = {"firewall": {"enabled": False}}
    with up(3, **without) as live:
        assert not live.want.has_files
        grown, _ = compiled(5, **without)
        live.become(grown)
        live.assert_true()
        live.assert_serves(*grown.reservations)
        fewer = replace(grown, reservations=grown.reservations[1:], dns_hosts=grown.dns_hosts[1:])
        live.become(fewer)
        live.assert_true()
        live.assert_serves(*fewer.reservations)
        assert list(Path(file_path(NAME, File.HOSTS)).parent.glob(f"ai-how-{NAME}*")) == []
