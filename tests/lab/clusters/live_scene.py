"""A cluster with two machines that run, endpoints beside them, and pings among all of them that never stop; a second
cluster that comes and goes. tests/lab/clusters/test_live_changes.py changes their configuration meanwhile."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml
from tests.lab.consul_agent import agent
from tests.lab.pings import GuestPings, Meter
from tests.lab.resolvers import resolving_by

from ai_how.config.load import load_file
from ai_how.engine.events import silent
from ai_how.engine.prepare import foresee
from ai_how.host.libvirt import Libvirt
from ai_how.lab import INTERNET
from ai_how.plan.document import plan_document
from ai_how.probe.dhcp import Lease, Message, message, read_reply
from ai_how.probe.endpoint import LINK, Endpoint, attached, endpoint
from ai_how.probe.packets import ask, dns, name_in_query, ping, tcp, udp
from ai_how.probe.place import Place, here, named
from ai_how.probe.responder import Responder, tap

Ran = subprocess.CompletedProcess[str]

#: Two that run, and one that does not.
CONTROLLER, FIRST, LATE = "live-controller", "live-first", "live-late"
ADDRESSES = {CONTROLLER: IPv4Address("10.44.0.2"), FIRST: IPv4Address("10.44.0.11")}
LATE_AT, LATE_MAC = "10.44.0.13", "52:54:00:ff:01:01"
GATEWAY, PEERS_GATEWAY = IPv4Address("10.44.0.1"), IPv4Address("10.45.0.1")
HOST, OUTSIDE = INTERNET.uplink_address.ip, INTERNET.resolvers[0]
SMALL = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}

#: Where the machines' web servers, and the responders at the host and outside, answer.
PORT = 7022

#: Seconds that DHCP may take, on a busy machine; and until a question to it is repeated.
LEASE_WITHIN, AGAIN = 60.0, 0.5

#: MACs that no node has.
_A, _B, _PEER, _NEW = (f"52:54:00:ff:00:{number:02x}" for number in range(1, 5))


@dataclass
class Live:
    """All of it. `clusters` is what the configuration file says, by key."""

    file: Path
    clusters: dict[str, dict[str, Any]]
    ai_how: Callable[..., Ran]
    in_guest: Callable[..., Ran]
    stack: ExitStack
    meter: Meter
    host: Place
    lan: Place
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    addresses: dict[str, IPv4Address] = field(default_factory=lambda: ADDRESSES)
    guests: list[GuestPings] = field(default_factory=list)
    _pinging: ExitStack = field(default_factory=ExitStack)
    _peer: ExitStack = field(default_factory=ExitStack)

    @property
    def network(self) -> dict[str, Any]:
        """Of the first cluster, to be edited."""
        network: dict[str, Any] = self.clusters["live"]["network"]
        return network

    @property
    def state(self) -> Path:
        return self.file.with_suffix(".json")

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump({"clusters": self.clusters}, sort_keys=False))

    def run(self, *words: object) -> Ran:
        ran = self.ai_how(*words, "--state", self.state)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran

    def up(self, *words: str, cluster: str = "live") -> Ran:
        return self.run("up", self.file, "--cluster", cluster, *words)

    def plan(self, cluster: str = "live", *, start: bool = True) -> dict[str, Any]:
        """What `ai-how plan --json` says that `up` would do, without a process of its own for each."""
        document = load_file(self.file)
        with Libvirt() as libvirt:
            (found,) = foresee(libvirt, document, [cluster], start=start, progress=silent)
        return plan_document(cluster, found.plan)

    # ---- what can be seen of a change ---------------------------------------------------------------------------

    def reaches(self, place: Place, target: IPv4Address) -> bool:
        return ask(ping(place, target)).replied

    def opens(self, place: Place, target: IPv4Address, port: int) -> bool:
        return ask(tcp(place, target, port)).replied

    def named(self, name: str, server: IPv4Address = GATEWAY) -> str:
        """What a node is told about a name: its address, else the response code, else that nothing came."""
        place = self.host if server == PEERS_GATEWAY else self.endpoints["a"].place
        answer = ask(dns(place, server, name))
        return ", ".join(answer.said) or answer.code or answer.detail

    def lease(self, mac: str = _NEW) -> Lease:
        """What DHCP gives to this MAC, by default to that of a stranger."""
        with endpoint(self.network["bridge"], mac, within=LEASE_WITHIN) as fresh:
            return fresh.lease

    def offered(self, wish: IPv4Address) -> IPv4Address | None:
        """The address that DHCP offers to a stranger who wishes to have this one (RFC 2131, 3.5)."""
        transaction = secrets.token_bytes(4)
        with (
            attached(self.network["bridge"], _NEW, name="wisher") as (place, _),
            place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LINK.encode())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.bind(("", 68))
            client.settimeout(AGAIN)
            question = message(Message.DISCOVER, transaction, _NEW, requested=wish)
            deadline = time.monotonic() + LEASE_WITHIN
            while time.monotonic() < deadline:
                client.sendto(question, ("255.255.255.255", 67))
                with suppress(TimeoutError):
                    reply = read_reply(client.recv(65536))
                    if reply is not None and reply.transaction == transaction:
                        return reply.address
        return None

    def forwarders(self) -> set[str]:
        """The servers outside that are asked when a node asks for a name outside; none where it is not answered."""
        name = f"{secrets.token_hex(4)}.test"
        with tap(self.lan, INTERNET.uplink) as outside:
            if ask(dns(self.endpoints["a"].place, GATEWAY, name)).said != (str(INTERNET.web),):
                return set()
            asked = [frame for frame in outside.frames() if name_in_query(name) in frame]
        return {str(IPv4Address(frame[30:34])) for frame in asked}

    def seen_as(self, target: IPv4Address) -> str:
        """The address that a node seems to have, seen from outside."""
        return "".join(ask(udp(self.endpoints["b"].place, target, PORT)).said)

    # ---- what comes and goes ------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The endpoints come, and all pings begin."""
        bridge = self.network["bridge"]
        for letter, mac in (("a", _A), ("b", _B)):
            self.endpoints[letter] = self._pinging.enter_context(endpoint(bridge, mac, name=letter))
        a, b = self.endpoints["a"], self.endpoints["b"]
        # Outside knows the way back to these two alone: the others have an answer only where they are masqueraded.
        self.ways_back([str(ADDRESSES[FIRST]), str(b.ip)])
        for place, target, label in (
            (a.place, b.ip, "node → node"),
            (a.place, ADDRESSES[CONTROLLER], "node → machine"),
            (a.place, OUTSIDE, "node → internet"),
            (self.host, a.ip, "host → node"),
            (self.host, ADDRESSES[FIRST], "host → machine"),
        ):
            self._pinging.callback(self.meter.end, self.meter.ping(place, target, label))
        self.meter.wait_until_answered()

    def leave(self) -> None:
        """The endpoints go, and with them all pings but those of the machines."""
        self._pinging.close()

    def guests_begin(self) -> None:
        """The machines themselves begin to ping."""
        self.guests = [
            GuestPings(self.in_guest, CONTROLLER, OUTSIDE),
            GuestPings(self.in_guest, FIRST, ADDRESSES[CONTROLLER]),
        ]

    def ways_back(self, targets: list[str]) -> None:
        """Outside, the way to `targets` leads to this host, as in a LAN that knows where the clusters are."""
        for each in targets:
            self.lan.run(["ip", "route", "replace", each, "via", str(HOST)])
            self.stack.callback(self.lan.run, ["ip", "route", "del", each])

    def peer_enters(self) -> None:
        """A node of the peer comes, which pings one of ours."""
        there = self._peer.enter_context(endpoint("br-peer", _PEER, name="peer"))
        stream = self.meter.ping(there.place, self.endpoints["a"].ip, "peer → node")
        self._peer.callback(self.meter.end, stream)
        self.meter.wait_until_answered()

    def peer_leaves(self) -> None:
        """It goes."""
        self._peer.close()

    def consul_runs(self) -> None:
        self.stack.enter_context(agent(self.file.parent / "consul"))

    def host_resolves(self) -> None:
        """From now on the host has a dnsmasq of its own that programs ask."""
        self.stack.enter_context(resolving_by("plain_dnsmasq"))

    def restart_network(self) -> None:
        """As somebody does it by hand: stop the network, start it, and put all links back on its bridge."""
        bridge = self.network["bridge"]
        ports = [path.name for path in Path(f"/sys/class/net/{bridge}/brif").iterdir()]
        for argv in (["virsh", "net-destroy", "live-network"], ["virsh", "net-start", "live-network"]):
            subprocess.run(argv, check=True, capture_output=True)
        for port in ports:
            subprocess.run(["ip", "link", "set", port, "master", bridge], check=True)


@contextmanager
def standing(
    folder: Path, micro_image: Path, blank_image: Path, ai_how: Callable[..., Ran], in_guest: Callable[..., Ran]
) -> Iterator[Live]:
    """The first cluster up, with its pings; nothing of both clusters is left afterwards."""
    clusters: dict[str, dict[str, Any]] = {
        "live": {
            "name": "live",
            "base_image_path": str(micro_image),
            "network": {
                "subnet": "10.44.0.0/24",
                "bridge": "br-live",
                "dhcp_start": "10.44.0.100",
                "dhcp_end": "10.44.0.149",
                "dns_servers": [str(GATEWAY), str(OUTSIDE)],
            },
            "controller": {"ip_address": str(ADDRESSES[CONTROLLER]), **SMALL},
            "compute_nodes": [{"name": FIRST, "ip": str(ADDRESSES[FIRST]), **SMALL}],
        },
        "peer": {
            "name": "peer",
            "base_image_path": str(blank_image),
            "network": {
                "subnet": "10.45.0.0/24",
                "bridge": "br-peer",
                "dns_mode": "shared_dns",
                "host_resolver": "none",
            },
            "controller": dict(SMALL),
        },
    }
    with ExitStack() as stack:
        host, lan = stack.enter_context(here()), stack.enter_context(named(INTERNET.namespace))
        responder = stack.enter_context(Responder())
        responder.listen(host, PORT)
        responder.listen(lan, PORT, INTERNET.web)
        live = Live(
            folder / "clusters.yaml", clusters, ai_how, in_guest, stack, stack.enter_context(Meter()), host, lan
        )
        for name in clusters:
            stack.callback(ai_how, "destroy", name, "--yes", "--state", live.state)
        stack.callback(live.leave)
        stack.callback(live.peer_leaves)
        live.write()
        live.up()
        nodes: list[dict[str, Any]] = clusters["live"]["compute_nodes"]
        nodes.append({"name": LATE, **SMALL})
        live.network.update(static_leases={LATE: LATE_AT}, vm_macs={LATE: LATE_MAC})
        live.write()
        live.up("--no-start")
        for node in ADDRESSES:
            ran = in_guest(node, "/bin/sh", "-c", f"mkdir -p /run/www && httpd -p {PORT} -h /run/www")
            assert ran.returncode == 0, ran.stderr
        live.enter()
        yield live
