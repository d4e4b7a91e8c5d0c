"""A host with somebody else's firewall, for test_passage.py: a program in a lab, one thing for each line it reads.

    networks            a NAT network (pf-nat) and a routed one (pf-route), with our firewall's table
    docker [COMMAND]    what Docker 27 sets up by COMMAND (iptables), and a container on docker0
    ufw | nft           firewalls that drop what nobody accepts, in iptables and in a table of its own
    firewalld ROOT      the firewalld unpacked in ROOT, and libvirtd anew, which then knows of it
    pass | unpass       our passages, where they are needed; or none any more
    look                where passages are needed and are, and what other firewalls stop
    try                 what works, and what was said where it does not

What each says is a line of JSON.
Docker itself does not run here. Its rules are written from what it is known to do; bridge-nf-call-iptables is on, as
it sets it: then packets from one node to another go through FORWARD as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from ai_how.errors import AiHowError
from ai_how.host import foreign_firewalls, iptables
from ai_how.host.libvirt import Libvirt
from ai_how.lab import INTERNET
from ai_how.probe.endpoint import Endpoint, endpoint
from ai_how.probe.packets import Answer, dns, http, ping, tcp
from ai_how.probe.place import Place, here, named
from ai_how.probe.responder import Responder
from ai_how.providers import firewall, passage
from ai_how.resources.firewall import ClusterRules, FirewallTable
from ai_how.resources.passage import Passage
from ai_how.spec.policy import Port, Protocol

#: Bridge → libvirt's forward mode.
MODES = {"pf-nat": "nat", "pf-route": "route"}
SUBNETS = {"pf-nat": IPv4Network("10.77.0.0/24"), "pf-route": IPv4Network("10.78.0.0/24")}
LAN = INTERNET.uplink_address.network
#: A service of the host that nodes must not reach.
PORT = 7777
#: One that they may reach, by allow_host_ports.
OPEN = Port(Protocol.TCP, 7778)
#: Seconds in which a daemon has started or ended, on a busy machine.
DEADLINE = 60.0
#: Seconds for an answer: a busy machine takes its time, and all are asked at once.
WITHIN = 2.0

_NETWORK = """
<network><name>{name}</name><forward mode='{mode}'/><bridge name='{name}' stp='off' delay='0'/>
  <ip address='{subnet[1]}' netmask='{subnet.netmask}'><dhcp>
    <range start='{subnet[10]}' end='{subnet[99]}'/></dhcp></ip>
  <options xmlns='http://libvirt.org/schemas/network/dnsmasq/1.0'><option value='no-ping'/></options></network>
"""
_DOCKER = """*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-I FORWARD -i docker0 -o docker0 -j ACCEPT
-I FORWARD -i docker0 ! -o docker0 -j ACCEPT
-I FORWARD -o docker0 -j DOCKER
-I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-I FORWARD -j DOCKER-ISOLATION-STAGE-1
-I FORWARD -j DOCKER-USER
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""
_CONTAINER = """
link add docker0 type bridge
addr add 172.17.0.1/16 dev docker0
link set docker0 up
netns add container
link add veth-container master docker0 type veth peer name eth0 netns container
link set veth-container up
"""
_IN_CONTAINER = """
addr add 172.17.0.2/16 dev eth0
link set eth0 up
route add default via 172.17.0.1
"""
_UFW = """*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:ufw-before-forward - [0:0]
:ufw-before-input - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
_NFT = """
table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    tcp dport 22 accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
  }
}
"""


#: Where `firewall-cmd` is, too.
PATHS = {**os.environ, "PATH": f"/run/passage-scene:{os.environ['PATH']}"}


def run(*argv: str, text: str = "") -> str:
    return subprocess.run(argv, input=text, check=True, capture_output=True, text=True).stdout


def networks() -> None:
    table = FirewallTable(tuple(_rules(name) for name in MODES), (INTERNET.uplink,), intact=True)
    with Libvirt() as libvirt:
        firewall.create(libvirt, table)
    for name, mode in MODES.items():
        file = Path(f"/run/{name}.xml")
        file.write_text(_NETWORK.format(name=name, mode=mode, subnet=SUBNETS[name]))
        run("virsh", "net-create", str(file))
    run(
        "ip", "-n", INTERNET.namespace, "route", "add", str(SUBNETS["pf-route"]), "via", str(INTERNET.uplink_address.ip)
    )


def _rules(name: str) -> ClusterRules:
    subnet = SUBNETS[name]
    rules = ClusterRules(cluster=name, bridge=name, subnet=subnet, gateway=subnet[1], allow_host_ports=(OPEN,))
    return replace(rules, masquerade=True, allow_from=(LAN,)) if MODES[name] == "route" else rules


def docker(command: str = "iptables") -> None:
    run("ip", "-batch", "-", text=_CONTAINER)
    run("ip", "-n", "container", "-batch", "-", text=_IN_CONTAINER)
    for setting in ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables"):
        Path("/proc/sys/net", setting).write_text("1")
    run(f"{command}-restore", "--noflush", text=_DOCKER)


def ufw() -> None:
    run("iptables-restore", "--noflush", text=_UFW)


def nft() -> None:
    run("nft", "-f", "-", text=_NFT)


def firewalld(root: str) -> None:
    """Without systemd: D-Bus starts nothing, and Polkit learns what firewalld's package would have installed."""
    actions = Path("/run/passage-scene/actions")
    actions.mkdir(parents=True)
    (policy,) = Path(root).glob("usr/share/polkit-1/actions/*.server.policy.choice")
    shutil.copy(policy, actions / policy.name.replace(".server.policy.choice", ".policy"))
    for upper, lower in (
        (f"{root}/usr/lib/firewalld", "/usr/lib/firewalld"),
        (f"{root}/usr/share/dbus-1", "/usr/share/dbus-1"),
        (str(actions), "/usr/share/polkit-1/actions"),
    ):
        run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={upper}:{lower}", lower)
    shutil.copytree(f"{root}/etc/firewalld", "/etc/firewalld")
    Path("/run/dbus").mkdir(exist_ok=True)
    run("dbus-daemon", "--system", "--fork")
    program, command = (Path("/run/passage-scene", name) for name in ("firewalld", "firewall-cmd"))
    for script, place in ((program, "sbin"), (command, "bin")):
        start = f'exec /usr/bin/python3 -s {root}/usr/{place}/{script.name} "$@"'
        script.write_text(f"#!/bin/sh\nexport PYTHONPATH={root}/usr/lib/python3/dist-packages\n{start}\n")
        script.chmod(0o755)
    with Path("/run/passage-scene/log").open("w") as log:
        subprocess.Popen([str(program), "--nofork", "--nopid"], stdout=log, stderr=log, start_new_session=True)
    until("firewall-cmd --state")
    ended = Path("/run/libvirtd.pid").read_text().strip()
    run("kill", "-KILL", ended)  # it has nothing yet, and 11.3 does not always end when it is asked to
    until(f"! test -e /proc/{ended}")
    run("libvirtd", "--daemon")
    until("virsh -q list")


def until(command: str) -> None:
    """Run it until it succeeds."""
    deadline = time.monotonic() + DEADLINE
    while subprocess.run(["sh", "-c", command], capture_output=True, env=PATHS).returncode != 0:
        assert time.monotonic() < deadline, command
        time.sleep(0.05)


def unpass() -> None:
    with Libvirt() as libvirt:
        for each in passage.observe(libvirt, ""):
            passage.remove(libvirt, each)


def pass_() -> None:
    with Libvirt() as libvirt:
        for chain in iptables.passage_chains(iptables.read_rules(iptables.list_rules())):
            passage.create(libvirt, Passage(chain, tuple(sorted(MODES))))


def look() -> dict[str, Any]:
    with Libvirt() as libvirt:
        passages = {each.chain: each.bridges for each in passage.observe(libvirt, "")}
    found = foreign_firewalls.obstacles(
        foreign_firewalls.look(),
        sorted(MODES),
        uplinks=[INTERNET.uplink],
        passages=list(passages),
        ports=dict.fromkeys(MODES, (OPEN,)),
    )
    needed = iptables.passage_chains(iptables.read_rules(iptables.list_rules()))
    return {"needed": needed, "passages": passages, "obstacles": [asdict(each) for each in found]}


def try_() -> dict[str, str]:
    questions: dict[str, Coroutine[Any, Any, Answer]] = {}
    answers: dict[str, str] = {}
    with ExitStack() as stack:
        lan, host = stack.enter_context(named(INTERNET.namespace)), stack.enter_context(here())
        container = None
        with contextlib.suppress(OSError):
            container = stack.enter_context(named("container"))
            questions["container: web"] = _web(container)
        responder = stack.enter_context(Responder())
        for bridge, mode in MODES.items():
            for port in (PORT, OPEN.number):
                responder.listen(host, port, SUBNETS[bridge][1])
            nodes = _nodes(stack, bridge)
            answers[f"{mode}: lease"] = "works" if nodes else "none"
            if not nodes:
                continue
            node, other = nodes
            questions |= {
                f"{mode}: neighbour": ping(node.place, other.ip, within=WITHIN),
                f"{mode}: gateway": ping(node.place, node.gateway, within=WITHIN),
                f"{mode}: names": dns(node.place, node.gateway, INTERNET.name, within=WITHIN),
                f"{mode}: web": _web(node.place),
                f"{mode}: opened port": tcp(node.place, node.gateway, OPEN.number, within=WITHIN),
                f"{mode}: host's service": tcp(node.place, node.gateway, PORT, within=WITHIN),
            }
            if mode == "route":
                questions[f"{mode}: from the LAN"] = ping(lan, node.ip, within=WITHIN)
            if container is not None:
                questions[f"{mode}: from a container"] = ping(container, node.ip, within=WITHIN)
        for name, answer in zip(questions, asyncio.run(_all(list(questions.values()))), strict=True):
            answers[name] = "works" if answer.replied else answer.detail
    return answers


def _web(place: Place) -> Coroutine[Any, Any, Answer]:
    return http(place, INTERNET.web, INTERNET.name, within=WITHIN)


async def _all(questions: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    return await asyncio.gather(*questions)


def _nodes(stack: ExitStack, bridge: str) -> list[Endpoint]:
    """Two on the bridge; none where DHCP answers nobody."""
    try:
        return [
            stack.enter_context(endpoint(bridge, f"52:54:00:00:{len(bridge):02x}:0{n}", within=WITHIN)) for n in (1, 2)
        ]
    except AiHowError:
        return []


COMMANDS: dict[str, Any] = {
    "networks": networks,
    "docker": docker,
    "ufw": ufw,
    "nft": nft,
    "firewalld": firewalld,
    "pass": pass_,
    "unpass": unpass,
    "look": look,
    "try": try_,
}

if __name__ == "__main__":
    for line in sys.stdin:
        command, *words = line.split()
        print(json.dumps(COMMANDS[command](*words)), flush=True)
