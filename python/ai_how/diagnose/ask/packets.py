"""Questions that are packets: to gateways and DNS servers, to everybody on a bridge, to DHCP servers, to Consul.

Nothing of it changes anything: DNS questions are answered from caches, ARP asks, a DISCOVER takes no lease.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import select
import socket
import ssl
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from ai_how.host.neighbours import request

#: Seconds to wait for each of so many tries. A healthy gateway answers within a millisecond; a busy host may be late.
GATEWAY_PATIENCE, GATEWAY_TRIES = 0.5, 4
UPSTREAM_PATIENCE, UPSTREAM_TRIES = 0.6, 4
#: Seconds in which everybody on a bridge has answered. Whoever has one address with somebody else answers, too.
ARP_PATIENCE = 0.3
#: Seconds in which a DHCP server of somebody else's has spoken.
DHCP_PATIENCE = 0.3
CONSUL_PATIENCE = 2.0

#: A name that every way out knows or denies; what is asked is whether there is an answer at all (RFC 2606).
OUTSIDE = "example.com"

_ETH_P_IP, _ETH_P_ARP = 0x0800, 0x0806
_RCODES = {0: "", 1: "FORMERR", 2: "SERVFAIL", 3: "", 4: "NOTIMP", 5: "REFUSED"}
_BROADCAST = b"\xff" * 6

#: An agent is asked itself: a proxy knows no address of this host.
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask_gateway(server: str) -> dict[str, Any]:
    """Whether a gateway's DNS server answers: `version.bind`, class CHAOS, which is never passed on to others."""
    question = b"\x07version\x04bind\x00" + struct.pack("!HH", 16, 3)
    return _dns(server, question, GATEWAY_PATIENCE, GATEWAY_TRIES, judge=lambda code: "")


def ask_upstream(server: str, port: int = 53) -> dict[str, Any]:
    """Whether a DNS server outside answers, with a name or with the word that there is none."""
    name = b"".join(bytes([len(each)]) + each.encode() for each in OUTSIDE.split(".")) + b"\x00"
    return _dns(
        server,
        name + struct.pack("!HH", 1, 1),
        UPSTREAM_PATIENCE,
        UPSTREAM_TRIES,
        port=port,
        judge=lambda code: _RCODES.get(code, f"code {code}"),
    )


def _dns(
    server: str, question: bytes, patience: float, tries: int, *, judge: Callable[[int], str], port: int = 53
) -> dict[str, Any]:
    begin, query = time.monotonic(), struct.pack("!6H", secrets.randbits(16), 0x0100, 1, 0, 0, 0) + question
    try:
        with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as ask:
            ask.settimeout(patience)
            reply, why = _reply(ask, (server, port), query, tries)
    except OSError as error:
        reply, why = b"", error.strerror or str(error)
    if reply:
        trouble = judge(reply[3] & 0x0F) if len(reply) > 3 else "an answer that is none"
        why = f"it answers {trouble}" if trouble else ""
    return {"answered": not why, "ms": round((time.monotonic() - begin) * 1000, 1), "why": why}


def _reply(ask: socket.socket, server: tuple[str, int], query: bytes, tries: int) -> tuple[bytes, str]:
    """What comes back to a question that is sent so many times, or why nothing does. A slow answer to one of them is
    heard while the next waits for its own."""
    why = f"no answer in {(ask.gettimeout() or 0) * tries:g} s"
    for _ in range(tries):
        try:
            ask.connect(server)
            ask.send(query)
            while (reply := ask.recv(4096))[:2] != query[:2]:
                pass
            return reply, ""
        except TimeoutError:
            continue
        except OSError as error:
            why = error.strerror or str(error)
            if isinstance(error, ConnectionRefusedError):
                time.sleep(0.05)
    return b"", why


def ask_everybody(bridge: str, gateway: IPv4Address, addresses: Collection[IPv4Address]) -> dict[str, list[str]]:
    """The MACs that answer ARP (RFC 826) at each of `addresses`, and at the gateway's, on `bridge`. Needs root."""
    found: dict[str, set[str]] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as asker:
        asker.bind((bridge, _ETH_P_ARP))
        mac: bytes = asker.getsockname()[4]
        # Whoever also has the gateway's address answers a probe from nobody (RFC 5227), and no question from itself.
        frames = [request(mac, gateway, each) for each in addresses] + [request(mac, IPv4Address(0), gateway)]
        deadline, again = time.monotonic() + ARP_PATIENCE, (0.0, ARP_PATIENCE / 2)
        for wait in again:
            _until(deadline - ARP_PATIENCE + wait, asker, lambda frame: _note_reply(frame, mac, found))
            for frame in frames:
                with contextlib.suppress(OSError):  # out of buffers for now, or switched off: asked again, or not there
                    asker.send(frame)
        _until(deadline, asker, lambda frame: _note_reply(frame, mac, found))
    return {ip: sorted(macs) for ip, macs in sorted(found.items())}


def _note_reply(frame: bytes, own: bytes, found: dict[str, set[str]]) -> None:
    if (
        len(frame) >= 42
        and frame[12:22] == struct.pack(">HHHBBH", _ETH_P_ARP, 1, 0x0800, 6, 4, 2)
        and frame[22:28] != own
    ):
        found.setdefault(str(IPv4Address(frame[28:32])), set()).add(frame[22:28].hex(":"))


def ask_dhcp(bridge: str, gateway: IPv4Interface) -> list[str]:
    """The DHCP servers that answer on the ports of `bridge`, as "ADDRESS MAC". Needs root.

    What is sent by a bridge leaves by its ports: the network's own server, which listens on the bridge, does not hear
    it, so whoever answers is somebody else. A DISCOVER (RFC 2131) may wait for a ping of the address it offers; an
    INFORM is answered at once.
    """
    found = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP)) as asker:
        asker.bind((bridge, _ETH_P_IP))
        client = b"\x52\x54\x00" + secrets.token_bytes(3)
        transaction = secrets.token_bytes(4)

        def note(frame: bytes) -> None:
            # IPv4 without options, UDP from port 67, BOOTREPLY of our transaction
            reply = len(frame) > 282 and frame[23] == 17 and frame[34:36] == b"\x00\x43" and frame[42] == 2
            if reply and frame[46:50] == transaction:
                found.add(f"{IPv4Address(frame[26:30])} {frame[6:12].hex(':')}")

        begin = time.monotonic()
        for until in (DHCP_PATIENCE / 2, DHCP_PATIENCE):
            for kind, address in ((1, IPv4Address(0)), (8, gateway.ip)):
                with contextlib.suppress(OSError):
                    asker.send(_dhcp(asker.getsockname()[4], client, transaction, kind, address))
            _until(begin + until, asker, note)
    return sorted(found)


def _dhcp(mac: bytes, client: bytes, transaction: bytes, kind: int, address: IPv4Address) -> bytes:
    """A frame to everybody with a DISCOVER (1) or INFORM (8)."""
    boot = struct.pack(">BBBB4sHH4s4s4s4s", 1, 1, 6, 0, transaction, 0, 0x8000, address.packed, b"", b"", b"")
    boot += client.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind, 55, 2, 1, 3, 255])
    boot = boot.ljust(300, b"\0")
    udp = struct.pack(">HHHH", 68, 67, 8 + len(boot), 0)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(boot), 0, 0, 64, 17, 0, address.packed, b"\xff" * 4)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return _BROADCAST + mac + struct.pack(">H", _ETH_P_IP) + head + udp + boot


def _until(deadline: float, sock: socket.socket, note: Callable[[bytes], None]) -> None:
    """Hand every frame that comes before `deadline` to `note`."""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            try:
                note(sock.recv(2048))
            except OSError:  # switched off or taken away meanwhile (packet(7))
                return


def ask_consul(address: str, dns_server: str, dns_port: int) -> dict[str, Any]:
    """Whether a Consul agent answers at its HTTP API, with a leader, and at its DNS port."""
    begin = time.monotonic()
    try:
        # The address comes from a network's mark, which was checked to be http or https (resources/policy.py).
        with _WITHOUT_PROXY.open(f"{address}/v1/status/leader", timeout=CONSUL_PATIENCE) as reply:
            leader = json.loads(reply.read(1000))
    except urllib.error.HTTPError:
        leader = "yes"  # it is there, and wants a token
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # who speaks TLS is there, whatever it thinks of us
            return {"answered": False, "ms": 0.0, "why": f"{address}: {reason}"}
        leader = "yes"
    if not leader:
        return {"answered": False, "ms": 0.0, "why": f"{address}: it has no leader"}
    reply_dns = _dns(
        dns_server,
        b"\x06consul\x00" + struct.pack("!HH", 6, 1),
        CONSUL_PATIENCE / 2,
        2,
        port=dns_port,
        judge=lambda code: "",
    )
    if not reply_dns["answered"]:
        return {**reply_dns, "why": f"DNS at {dns_server} port {dns_port}: {reply_dns['why']}"}
    return {"answered": True, "ms": round((time.monotonic() - begin) * 1000, 1), "why": ""}
