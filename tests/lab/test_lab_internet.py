"""The pretend internet, asked from the lab and from behind a libvirt NAT network."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tests.waiting import COMES_WITHIN, until

from ai_how.host import links
from ai_how.lab import Internet, Lab

NETWORK = """
<network><name>behind</name>{forward}<bridge name='br-behind' stp='off' delay='0'/>
  <ip address='10.9.7.1' netmask='255.255.255.0'/></network>
"""
#: A machine on the bridge, without QEMU: a network namespace.
MACHINE = """
netns add machine
link add machine-port type veth peer name eth0 netns machine
link set machine-port master br-behind up
-n machine link set eth0 up
-n machine addr add 10.9.7.10/24 dev eth0
-n machine route add default via 10.9.7.1
"""


def output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * COMES_WITHIN, check=False)
    return done.stdout + done.stderr


def fetch(url: str, within: float = COMES_WITHIN) -> list[str]:
    return ["curl", "--silent", "--show-error", "--max-time", f"{within:g}", url]


def test_any_name_is_served_by_the_web_server(internet: Internet) -> None:
    for name in (internet.name, "example.com", "a.b.c.example.org"):
        assert output(*fetch(f"http://{name}/any/path")) == internet.web_body


def test_both_resolvers_answer(internet: Internet) -> None:
    for resolver in internet.resolvers:
        assert str(internet.web) in output("busybox", "nslookup", internet.name, str(resolver))


def test_the_missing_name_does_not_exist(internet: Internet) -> None:
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(internet.missing_name, 80)
    assert caught.value.errno == socket.EAI_NONAME


def test_asked_for_an_ipv6_address_the_resolvers_say_there_is_none(internet: Internet) -> None:
    """Rather than refuse, which makes clients ask the next resolver and wait."""
    for resolver in internet.resolvers:
        assert answer(resolver, internet.name, kind=28) == ("NOERROR", 0)
        assert answer(resolver, internet.name, kind=1) == ("NOERROR", 1)


def test_a_private_address_gets_no_reply_unless_masqueraded(internet: Internet, clean_host: None) -> None:
    url = f"http://{internet.web}/"
    with machine_behind("<forward mode='route'/>"):
        assert "curl: (28)" in output("ip", "netns", "exec", "machine", *fetch(url, within=2))
    with machine_behind("<forward mode='nat'/>"):
        assert output("ip", "netns", "exec", "machine", *fetch(url)) == internet.web_body


def test_a_lab_without_internet_reaches_nothing(nested_lab: Callable[..., Lab], internet: Internet) -> None:
    closed, opened = nested_lab(), nested_lab(internet=True)
    for host in (*internet.resolvers, internet.web):
        until(lambda: opened.run(reach(host)).returncode == 0, "the way there")  # noqa: B023
        assert closed.run(reach(host)).returncode != 0
    assert closed.run(["getent", "hosts", internet.name]).returncode != 0


def answer(resolver: IPv4Address, name: str, *, kind: int) -> tuple[str, int]:
    """The code and the number of records in reply to one question (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.connect((str(resolver), 53))
        replies: list[bytes] = []

        def answered() -> list[bytes]:
            asking.send(question)
            replies.append(asking.recv(512))
            return replies

        until(answered, f"{resolver} answers", passing=(TimeoutError,))
    _, flags, _, records, _, _ = struct.unpack(">6H", replies[0][:12])
    code = {0: "NOERROR", 3: "NXDOMAIN", 5: "REFUSED"}.get(flags & 15, str(flags & 15))
    return code, records


def reach(host: IPv4Address) -> list[str]:
    return ["busybox", "ping", "-c", "1", "-W", "2", str(host)]


@contextlib.contextmanager
def machine_behind(forward: str) -> Iterator[None]:
    network = Path("/run/behind.xml")
    network.write_text(NETWORK.format(forward=forward))
    try:
        subprocess.run(["virsh", "net-create", network], check=True, capture_output=True)
        for line in MACHINE.strip().splitlines():
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
        assert links.await_forwarding("machine-port", within=COMES_WITHIN)
        yield
    finally:
        subprocess.run(["ip", "link", "del", "machine-port"], check=False)
        subprocess.run(["ip", "netns", "del", "machine"], check=False)
        subprocess.run(["virsh", "net-destroy", "behind"], check=False, capture_output=True)
        network.unlink()
