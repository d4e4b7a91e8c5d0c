"""Endpoints on real bridges: their leases, what they send, what is noted, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import COMES_WITHIN, until

from ai_how.config.terms import Protocol
from ai_how.errors import AiHowError, CommandFailed, HostError, NotReady
from ai_how.host import links
from ai_how.lab import Internet
from ai_how.probe.actions import Forgery, Ping, Sized, Talk
from ai_how.probe.endpoint import LINK, PREFIX, Endpoint, attached, configure, endpoint
from ai_how.probe.expectations import Expect, Expectation
from ai_how.probe.judge import Result
from ai_how.probe.packets import Address, Answer, NotTested, arp, ask, dns, forged, http, ping, tcp, udp
from ai_how.probe.place import here, named
from ai_how.probe.private6 import link_local
from ai_how.probe.responder import Responder, tap
from ai_how.probe.run import Spot, run
from ai_how.spec.policy import Port

BRIDGE, GATEWAY = "br-probe", IPv4Address("10.9.8.1")
ALPHA, BETA = "52:54:00:00:08:10", "52:54:00:00:08:11"
NETWORK = f"""
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>probe</name><forward mode='nat'/>
  <bridge name='{BRIDGE}' stp='off' delay='0'/><mtu size='1400'/><domain name='probe.internal' localOnly='yes'/>
  <dns><host ip='10.9.8.10'><hostname>alpha</hostname></host></dns>
  <ip address='{GATEWAY}' netmask='255.255.255.0'><dhcp><range start='10.9.8.10' end='10.9.8.99'/>
    <host mac='{ALPHA}' name='alpha' ip='10.9.8.10'/><host mac='{BETA}' name='beta' ip='10.9.8.11'/></dhcp></ip>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options></network>
"""


@pytest.fixture(scope="module")
def network(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    definition = tmp_path_factory.mktemp("network") / "probe.xml"
    definition.write_text(NETWORK)
    subprocess.run(["virsh", "net-create", str(definition)], check=True, capture_output=True)
    yield
    subprocess.run(["virsh", "net-destroy", "probe"], check=True, capture_output=True)


@pytest.fixture
def alpha(network: None) -> Iterator[Endpoint]:
    with endpoint(BRIDGE, ALPHA, name="alpha") as found:
        yield found


@pytest.fixture
def beta(network: None) -> Iterator[Endpoint]:
    with endpoint(BRIDGE, BETA, name="beta") as found:
        yield found


@pytest.fixture
def responder() -> Iterator[Responder]:
    with Responder() as found:
        yield found


def ports() -> list[str]:
    return [each.name for each in Path("/sys/class/net").iterdir() if each.name.startswith(PREFIX)]


def heard(send: Callable[..., Coroutine[Any, Any, Answer]], *words: Any, **more: Any) -> Answer:
    """What came back, however late: whoever is to answer shares a CPU with others."""
    return ask(send(*words, within=COMES_WITHIN, **more))


def leases() -> str:
    return subprocess.run(["virsh", "net-dhcp-leases", "probe"], check=True, capture_output=True, text=True).stdout


def test_a_node_s_mac_gets_its_address_and_all_that_goes_with_it(alpha: Endpoint) -> None:
    lease = alpha.lease
    assert str(lease.interface) == "10.9.8.10/24"
    assert lease.routers == lease.dns == lease.servers == (GATEWAY,)
    assert (lease.host_name, lease.domain, lease.mtu) == ("alpha", "probe.internal", 1400)
    assert "mtu 1400" in alpha.place.run(["ip", "link", "show", LINK])
    until(lambda: "10.9.8.10" in leases(), "dnsmasq's helper writes it down")


def test_the_port_and_the_lease_go_with_the_endpoint(network: None) -> None:
    with endpoint(BRIDGE, ALPHA) as one:
        assert ports() == [one.port]
        assert len(one.port) <= 15
    assert ports() == []
    until(lambda: "10.9.8.10" not in leases(), "dnsmasq's helper writes its end down")


def test_what_a_new_place_sends_at_once_is_forwarded() -> None:
    """A bridge with a spanning tree listens and learns first."""
    subprocess.run(
        ["ip", "link", "add", "br-slow", "type", "bridge", "stp_state", "1", "forward_delay", "200"], check=True
    )
    try:
        subprocess.run(["ip", "link", "set", "br-slow", "up"], check=True)
        with attached("br-slow", ALPHA, name="alpha") as (_, port):
            assert Path(f"/sys/class/net/{port}/brport/state").read_text() == "3\n"
    finally:
        subprocess.run(["ip", "link", "del", "br-slow"], check=True)


def test_on_a_bridge_that_is_down_nothing_is_waited_for() -> None:
    subprocess.run(["ip", "link", "add", "br-off", "type", "bridge"], check=True)
    try:
        with attached("br-off", ALPHA, name="alpha") as (_, port):
            assert not links.await_forwarding(port, within=3600.0)
    finally:
        subprocess.run(["ip", "link", "del", "br-off"], check=True)


def test_an_error_in_the_block_leaves_nothing(network: None) -> None:
    with pytest.raises(RuntimeError), endpoint(BRIDGE, ALPHA):
        raise RuntimeError
    assert ports() == []


def test_when_its_process_is_killed_its_port_goes(network: None) -> None:
    code = (
        "import sys, time\nfrom ai_how.probe.endpoint import endpoint\n"
        f"with endpoint({BRIDGE!r}, {BETA!r}):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(ports()) == 1
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: ports() == [], "the end of its port")


def test_without_a_bridge_or_a_server_it_says_so(network: None) -> None:
    with pytest.raises(CommandFailed, match="br-none"), endpoint("br-none", ALPHA):
        pass
    subprocess.run(["ip", "link", "add", "br-mute", "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "link", "set", "br-mute", "up"], check=True)
        with pytest.raises(NotReady, match="no DHCP server"), endpoint("br-mute", ALPHA, within=0.7):
            pass
    finally:
        subprocess.run(["ip", "link", "del", "br-mute"], check=True)
    assert ports() == []


def test_a_second_dhcp_server_is_noticed(network: None) -> None:
    with attached(BRIDGE, "52:54:00:00:08:66", name="rogue") as (place, _):
        place.run(["ip", "addr", "add", "10.9.8.200/24", "dev", LINK])
        # It is the slower one: the offer that is taken is the first.
        options = ["--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--leasefile-ro", "--no-ping"]
        served = f"--dhcp-range=10.9.8.150,10.9.8.160,255.255.255.0,{60 * 60}"
        rogue = place.at(subprocess.Popen, ["dnsmasq", "--keep-in-foreground", "--log-facility=-", *options, served])
        servers: set[IPv4Address] = set()

        def both() -> bool:
            with endpoint(BRIDGE, ALPHA, name="alpha") as one:
                servers.update(one.lease.servers)
            return len(servers) == 2

        try:
            until(both, "offers of both", passing=(AiHowError,))
        finally:
            rogue.terminate()
            rogue.wait()
    assert servers == {GATEWAY, IPv4Address("10.9.8.200")}


def test_each_kind_of_packet_arrives_and_is_answered(
    alpha: Endpoint, beta: Endpoint, responder: Responder, internet: Internet
) -> None:
    responder.listen(beta.place, 7000)
    own6 = str(link_local(ALPHA, LINK)).removesuffix(f"%{LINK}")
    seen_as: dict[Address, str] = {beta.ip: str(alpha.ip), link_local(BETA, LINK): own6}
    for target, source in seen_as.items():
        assert heard(ping, alpha.place, target).replied
        for send in (tcp, udp):
            assert heard(send, alpha.place, target, 7000).said == (source,)
    assert heard(arp, alpha.place, LINK, beta.ip).said == (BETA,)
    page = heard(http, alpha.place, internet.web, internet.name)
    assert (page.code, page.said) == ("200", (internet.web_body,))
    for over_tcp in (False, True):
        assert heard(dns, alpha.place, GATEWAY, "alpha.probe.internal", over_tcp=over_tcp).said == ("10.9.8.10",)
    assert heard(dns, alpha.place, GATEWAY, "10.8.9.10.in-addr.arpa", "PTR").said == ("alpha.probe.internal.",)
    assert heard(dns, alpha.place, GATEWAY, "nobody.probe.internal").code == "NXDOMAIN"


def test_a_responder_says_whom_it_saw(alpha: Endpoint, responder: Responder, internet: Internet) -> None:
    with named(internet.namespace) as outside:
        responder.listen(outside, 7001)
        for send in (tcp, udp):
            assert heard(send, alpha.place, internet.router, 7001).said == (str(internet.uplink_address.ip),)


def test_refused_and_unanswered_are_no_replies(alpha: Endpoint, beta: Endpoint) -> None:
    for send in (tcp, udp):
        refused = heard(send, alpha.place, beta.ip, 7999)
        assert not refused.replied
        assert "ECONNREFUSED" in refused.detail
    silent = ask(ping(alpha.place, IPv4Address("10.77.77.77"), within=0.2))
    assert not silent.replied
    assert silent.detail == "no reply in 0.2 s"


def test_what_cannot_be_sent_is_not_tested(alpha: Endpoint) -> None:
    for probe in (
        ping(alpha.place, IPv6Address("2001:db8::1")),
        tcp(alpha.place, IPv6Address("2001:db8::1"), 80),
        udp(alpha.place, IPv6Address("fe80::1%nowhere"), 80),
    ):
        with pytest.raises(NotTested):
            ask(probe)


def test_a_tap_sees_what_arrives_and_only_that(alpha: Endpoint, beta: Endpoint) -> None:
    with tap(beta.place, LINK) as there, tap(alpha.place, LINK) as here_:
        sent = heard(ping, alpha.place, beta.ip)
        lie = ask(forged(alpha.place, IPv4Address("10.9.8.77"), beta.ip))
        refused = heard(tcp, alpha.place, beta.ip, 7999)
        for each in (sent, lie, refused):
            until(lambda: there.saw(each.token), "it is seen")  # noqa: B023
        assert not there.saw(b"ai-how probe nothing")
        assert not here_.saw(lie.token)


def test_a_tap_that_was_too_slow_does_not_say_that_nothing_came(alpha: Endpoint, beta: Endpoint) -> None:
    with tap(beta.place, LINK) as there, beta.place.socket(socket.AF_PACKET, socket.SOCK_RAW) as flood:
        early = heard(ping, alpha.place, beta.ip)
        assert there.saw(b"ai-how probe nothing") is False
        flood.bind((LINK, 0))
        # To itself, as far as the link goes: what leaves is noted as well, until it is read.
        frame = bytes(12) + b"\x88\xb5" + bytes(100)
        for _ in range(100_000):
            flood.send(frame)
        assert there.saw(b"ai-how probe nothing") is None
        assert there.saw(early.token) is True
        assert there.saw(b"") is None


def test_a_responder_takes_no_datagrams_from_who_listens_already(alpha: Endpoint) -> None:
    with alpha.place.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, Responder() as one:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as DNS and NTP servers do
        server.bind(("", 123))
        with pytest.raises(HostError, match="port 123 cannot be answered"):
            one.listen(alpha.place, 123, alpha.ip)
    with Responder() as another:
        another.listen(alpha.place, 123, alpha.ip)
        assert heard(udp, alpha.place, alpha.ip, 123).replied


def test_a_router_that_is_not_on_the_link_is_taken_as_dhcp_says(network: None) -> None:
    elsewhere = IPv4Address("192.0.2.77")
    with endpoint(BRIDGE, ALPHA) as one:
        lease = one.lease
    with attached(BRIDGE, ALPHA, name="alpha") as (place, _):
        configure(place, replace(lease, routers=(elsewhere,), mtu=12))
        assert f"default via {elsewhere} dev {LINK}" in place.run(["ip", "route"])
        assert not ask(ping(place, IPv4Address("8.8.8.8"))).replied
        assert heard(ping, place, GATEWAY).replied


def test_what_is_too_large_for_the_way_is_told_with_what_arrives(alpha: Endpoint, beta: Endpoint) -> None:
    def tried(mtu: int) -> tuple[Result, str]:
        wanted = Expectation("alpha", "beta", Sized(beta.ip, mtu), Expect.PASS, "")
        scenario = run([wanted], {"alpha": Spot(alpha.place, LINK)})[wanted]
        return scenario.result, scenario.detail

    assert tried(1400)[0] is Result.PASSED
    subprocess.run(["ip", "link", "set", beta.port, "mtu", "1300"], check=True)
    arrives = "no reply in 1 s; one of 1280 bytes arrives"
    until(lambda: tried(1400) == (Result.FAILED, arrives), "a smaller one arrives")
    subprocess.run(["ip", "link", "set", beta.port, "down"], check=True)
    result, said = tried(1400)
    assert result is Result.FAILED
    assert said.endswith("; and no smaller one")


def test_a_run_tells_denied_from_dead(alpha: Endpoint, beta: Endpoint, responder: Responder) -> None:
    """The same denial, with a control that passes and with one that cannot."""
    with here() as host, tap(beta.place, LINK) as noted:
        spots = {"alpha": Spot(alpha.place, LINK), "beta": Spot(beta.place, LINK, noted), "host": Spot(host)}
        responder.listen(beta.place, 7000)
        alive = Expectation("host", "beta", Talk(beta.ip, Port(Protocol.UDP, 7000)), Expect.PASS, "")
        dead = Expectation("host", "beta", Talk(beta.ip, Port(Protocol.UDP, 7999)), Expect.PASS, "")
        closed = Talk(beta.ip, Port(Protocol.TCP, 7999))
        shown = Expectation("alpha", "beta", closed, Expect.DENY, "", (alive,))
        unknown = Expectation("alpha", "beta", closed, Expect.DENY, "", (dead,))
        leaking = Expectation("alpha", "beta", Ping(beta.ip), Expect.DENY, "", (alive,))
        lie = Expectation("alpha", "beta", Forgery(GATEWAY, beta.ip), Expect.DENY, "", (alive,), watched="beta")
        nowhere = Expectation("gamma", "beta", Ping(beta.ip), Expect.PASS, "")
        found = run([shown, unknown, leaking, lie, nowhere], spots)
    results = {each: scenario.result for each, scenario in found.items()}
    assert results[alive] is Result.PASSED
    assert results[dead] is Result.FAILED
    assert results[shown] is Result.PASSED
    assert results[unknown] is Result.SKIPPED
    assert results[leaking] is Result.FAILED
    assert results[lie] is Result.FAILED
    assert results[nowhere] is Result.SKIPPED


def test_what_refuses_is_asked_again_after_a_while(alpha: Endpoint, beta: Endpoint, responder: Responder) -> None:
    opens = Expectation("alpha", "beta", Talk(beta.ip, Port(Protocol.TCP, 7003)), Expect.PASS, "")
    threading.Timer(0.7, responder.listen, (beta.place, 7003)).start()
    found = run([opens], {"alpha": Spot(alpha.place, LINK), "beta": Spot(beta.place, LINK)}, attempts=60)
    assert found[opens].result is Result.PASSED
