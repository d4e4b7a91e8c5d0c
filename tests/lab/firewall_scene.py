"""What the tests of the firewall look at: libvirt networks as anybody defines them, machines on them (endpoints of
ai_how.probe), a container of somebody else's, and the pretend internet, which here is also the LAN."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, ParamSpec

from tests.waiting import COMES_WITHIN, until

from ai_how.errors import CommandFailed
from ai_how.host.libvirt import Libvirt
from ai_how.lab import INTERNET
from ai_how.probe import packets
from ai_how.probe.endpoint import Endpoint, attached, endpoint
from ai_how.probe.packets import Address, Answer, ask
from ai_how.probe.place import Place, here, named
from ai_how.probe.responder import Responder
from ai_how.providers import firewall
from ai_how.resources.firewall import TABLE, ClusterRules, Denial, FirewallTable
from ai_how.resources.ruleset import FAMILIES

#: Answered at every place by a responder.
PORT = 7777

#: How often what shall pass is asked: on a busy machine a packet may be lost, and whoever answers be late.
ATTEMPTS = 10

#: Seconds without a reply that count as none. TCP asks again after one second, and would be counted twice.
SILENCE = 0.8

#: What is asked when it is called, once more each time.
Question = Callable[..., Coroutine[Any, Any, Answer]]
P = ParamSpec("P")


def _question(way: Callable[P, Coroutine[Any, Any, Answer]]) -> Callable[P, Question]:
    def put(*args: P.args, **kwargs: P.kwargs) -> Question:
        return partial(way, *args, **kwargs)

    return put


ping, tcp, udp = _question(packets.ping), _question(packets.tcp), _question(packets.udp)
dns, http, arp = _question(packets.dns), _question(packets.http), _question(packets.arp)

CONTAINER = IPv4Address("172.29.0.10")
CONTAINERS = "fw-docker"
CONTAINERS_GATEWAY = IPv4Address("172.29.0.1")

#: Letter of a cluster → libvirt's forward mode of its network. Its subnet is 10.6<place in this list>.0.0/24.
MODES = {"a": "nat", "b": "nat", "r": "route", "s": "route", "o": "open"}

_NETWORK = """
<network><name>fw-{letter}</name><forward mode='{mode}'/><bridge name='fw-{letter}' stp='off' delay='0'/>
  <ip address='{subnet[1]}' netmask='{subnet.netmask}'><dhcp>
    <range start='{subnet[100]}' end='{subnet[199]}'/>{hosts}</dhcp></ip>
  <options xmlns='http://libvirt.org/schemas/network/dnsmasq/1.0'><option value='no-ping'/></options></network>
"""


def subnet(letter: str) -> IPv4Network:
    return IPv4Network(f"10.6{list(MODES).index(letter) + 1}.0.0/24")


def gateway(letter: str) -> IPv4Address:
    return subnet(letter)[1]


def mac(letter: str, number: int) -> str:
    return f"52:54:00:{ord(letter):02x}:00:{number:02x}"


def rules(letter: str, **more: Any) -> ClusterRules:
    """What ai-how loads for the cluster of that letter where nothing else is configured."""
    default = ClusterRules(
        cluster=letter,
        bridge=f"fw-{letter}",
        subnet=subnet(letter),
        gateway=gateway(letter),
        macs=(mac(letter, 1), mac(letter, 2)),
        masquerade=MODES[letter] != "nat",
    )
    return replace(default, **more)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is there. `nodes` are called a1, a2, b1 …"""

    libvirt: Libvirt
    host: Place
    lan: Place
    container: Place
    nodes: dict[str, Endpoint]

    def __getitem__(self, name: str) -> Place:
        return self.nodes[name].place

    def ip(self, name: str) -> IPv4Address:
        return self.nodes[name].ip

    @contextmanager
    def table(self, *clusters: ClusterRules, uplinks: Sequence[str] = (INTERNET.uplink,)) -> Iterator[FirewallTable]:
        """Our table with these clusters for the length of a `with` block."""
        want = FirewallTable(tuple(sorted(clusters, key=lambda each: each.cluster)), tuple(uplinks), intact=True)
        firewall.create(self.libvirt, want)
        try:
            yield want
        finally:
            firewall.remove(self.libvirt, want)

    def works(self, letter: str) -> None:
        """The positive control: what every cluster can do, whatever is denied."""
        node, other = f"{letter}1", f"{letter}2"
        with endpoint(f"fw-{letter}", "52:54:00:ff:ff:01", within=COMES_WITHIN) as fresh:
            assert fresh.lease.servers == (gateway(letter),)
        replied(ping(self[node], gateway(letter)))
        for over_tcp in (False, True):
            asked = dns(self[node], gateway(letter), INTERNET.name, over_tcp=over_tcp)
            assert replied(asked).said == (str(INTERNET.web),)
        replied(ping(self[node], self.ip(other)))
        replied(tcp(self[node], self.ip(other), PORT))
        replied(udp(self[node], self.ip(other), PORT))
        replied(ping(self.host, self.ip(node)))
        replied(tcp(self.host, self.ip(node), PORT))
        assert replied(http(self[node], INTERNET.web, INTERNET.name)).said == (INTERNET.web_body,)
        replied(ping(self[node], INTERNET.resolvers[0]))


@contextmanager
def build(uri: str) -> Iterator[Scene]:
    with ExitStack() as stack:
        libvirt = stack.enter_context(Libvirt(uri))
        for letter, mode in MODES.items():
            stack.enter_context(started(_network(letter, mode)))
        host, lan = stack.enter_context(here()), stack.enter_context(named(INTERNET.namespace))
        nodes = {
            f"{letter}{number}": stack.enter_context(
                endpoint(f"fw-{letter}", mac(letter, number), name=f"{letter}{number}", within=COMES_WITHIN)
            )
            for letter in MODES
            for number in (1, 2)
        }
        stack.enter_context(_ways_back(lan))
        container = stack.enter_context(_container())
        responder = stack.enter_context(Responder())
        for place in (lan, container, *(each.place for each in nodes.values())):
            responder.listen(place, PORT)
        # One socket for each address of the host: one for all would answer datagrams from another address.
        for address in (*map(gateway, MODES), INTERNET.uplink_address.ip, CONTAINERS_GATEWAY):
            responder.listen(host, PORT, address)
        yield Scene(libvirt, host, lan, container, nodes)


def _network(letter: str, mode: str) -> str:
    net = subnet(letter)
    hosts = "".join(f"<host mac='{mac(letter, number)}' ip='{net[10 + number]}'/>" for number in (1, 2))
    return _NETWORK.format(letter=letter, mode=mode, subnet=net, hosts=hosts)


@contextmanager
def _ways_back(lan: Place) -> Iterator[None]:
    """The LAN knows where the clusters are, as it would of routed ones."""
    for letter in MODES:
        lan.run(["ip", "route", "add", str(subnet(letter)), "via", str(INTERNET.uplink_address.ip)])
    try:
        yield
    finally:
        for letter in MODES:
            lan.run(["ip", "route", "del", str(subnet(letter))])


@contextmanager
def _container() -> Iterator[Place]:
    """A bridge as Docker makes one, and a container on it."""
    run("ip", "link", "add", CONTAINERS, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{CONTAINERS_GATEWAY}/24", "dev", CONTAINERS)
        # Else its link-local address, which it asks for neighbours with, comes a second later.
        Path(f"/proc/sys/net/ipv6/conf/{CONTAINERS}/accept_dad").write_text("0")
        run("ip", "link", "set", CONTAINERS, "up")
        with attached(CONTAINERS, "02:42:ac:1d:00:0a", name="container") as (place, _):
            place.run(["ip", "addr", "add", f"{CONTAINER}/24", "dev", "eth0"])
            place.run(["ip", "route", "add", "default", "via", str(CONTAINERS_GATEWAY)])
            yield place
    finally:
        run("ip", "link", "del", CONTAINERS)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def replied(question: Question) -> Answer:
    """The reply. It is asked for again, as by whoever wants one."""
    for _ in range(ATTEMPTS):
        if (answer := ask(question())).replied:
            break
    assert answer.replied, answer.detail
    return answer


def silent(*questions: Question) -> list[Answer]:
    """No reply came to any; for what our table denies use `denied`, which also sees who denied it. All are asked at
    once."""
    answers = ask(_all(questions))
    heard = [each.detail for each in answers if each.replied]
    assert not heard, heard
    return answers


async def _all(questions: Sequence[Question]) -> list[Answer]:
    return await asyncio.gather(*(each(within=SILENCE) for each in questions))


def denied(word: Denial, *questions: Question, within: float = COMES_WITHIN) -> None:
    """No reply came to any, and it was the rule of that word that saw to each."""
    wanted = denials()[word] + len(questions)
    silent(*questions)
    until(lambda: denials()[word] >= wanted, f"{len(questions)} more are counted as {word}", within)


def denials() -> Counter[str]:
    """How many packets each word of our table denied."""
    found: Counter[str] = Counter()
    for family in FAMILIES:
        for each in json.loads(run("nft", "-j", "list", "table", family, TABLE))["nftables"]:
            rule = each.get("rule", {})
            for statement in rule.get("expr", ()):
                if "counter" in statement:
                    found[rule["comment"]] += statement["counter"]["packets"]
    return found


def everywhere(place: Place, *targets: Address) -> Iterator[Question]:
    """A connection, a datagram and a ping to each."""
    for each in targets:
        yield tcp(place, each, PORT)
        yield udp(place, each, PORT)
        yield ping(place, each)


@contextmanager
def started(definition: str) -> Iterator[None]:
    """The libvirt network of that XML, for the length of a `with` block."""
    file = Path("/run/firewall-scene.xml")
    file.write_text(definition)
    try:
        name = run("virsh", "net-create", str(file)).split()[1]
    finally:
        file.unlink()
    try:
        yield
    finally:
        run("virsh", "net-destroy", name)


def forget_neighbours(place: Place, *which: str) -> None:
    """Whom the place knows, on all of its links or as ip-neighbour(8) is told `which`, it knows no longer.

    It ends with 255 and without a word where an entry goes by itself while it removes it: asked again.
    """
    for left in (2, 1, 0):
        try:
            place.run(["ip", "neigh", "flush", *(which or ("all",))])
        except CommandFailed:
            if not left:
                raise
        else:
            return
