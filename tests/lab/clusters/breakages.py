"""Single things that break between the configuration and the packet, and how they are mended again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from tests.lab.clusters.proof import Scene
from tests.lab.firewall_scene import forget_neighbours
from tests.waiting import kill, stop

from ai_how.host import memory, nftables
from ai_how.probe.endpoint import LINK, attached

#: Breaks something for the length of a `with` block.
Breaks = Callable[[Scene], AbstractContextManager[object]]

DNSMASQ = Path("/var/lib/libvirt/dnsmasq")

#: Nobody's MAC.
STRANGER = "52:54:00:ff:00:01"


def sh(*words: str) -> str:
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(words)}: {ran.stderr}"
    return ran.stdout


def load_rules() -> None:
    """As the network hook does it."""
    nftables.load(memory.recall_text(nftables.RULES) or "")


def rules(*lines: str) -> Breaks:
    """These changes of our tables; `HOST_PORT` is the port where the host answers. Mended as the hook loads them."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        try:
            for line in lines:
                if "HOST_PORT" in line:
                    line = line.replace("HOST_PORT", str(scene.stand().around.host_port))
                sh("nft", line)
            yield
        finally:
            load_rules()

    return broken


def without_rule(comment: str, *chains: str) -> Breaks:
    """Our rules of this name, in these chains of the family inet, are not there."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        try:
            for chain in chains:
                text = sh("nft", "-a", "list", "chain", "inet", "ai_how", chain)
                handles = re.findall(rf'comment "{comment}" # handle (\d+)', text)
                assert handles, f"there is no {comment} in {chain}"
                for handle in handles:
                    sh("nft", "delete", "rule", "inet", "ai_how", chain, "handle", handle)
            yield
        finally:
            load_rules()

    return broken


def done(do: str, undo: str) -> Breaks:
    """A command of somebody's, and what undoes it."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        sh(*do.split())
        try:
            yield
        finally:
            sh(*undo.split())

    return broken


def edited(name: str, *changes: tuple[str, str]) -> Breaks:
    """A file of dnsmasq's says something else, and dnsmasq has read it."""
    path = DNSMASQ / name
    found = re.search(r"(\w+-network)\.", name)
    assert found
    network = found[1]

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        before = after = path.read_text()
        for old, new in changes:
            assert old in after or not old, f"{old!r} is not in {name}:\n{before}"
            after = after.replace(old, new) if old else f"{after}{new}\n"
        try:
            path.write_text(after)
            os.kill(_pid(network), signal.SIGHUP)
            yield
        finally:
            path.write_text(before)
            os.kill(_pid(network), signal.SIGHUP)

    return broken


def hung(network: str) -> Breaks:
    """Its dnsmasq is there and says nothing."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        stop(_pid(network))
        try:
            yield
        finally:
            os.kill(_pid(network), signal.SIGCONT)

    return broken


def dead(network: str) -> Breaks:
    """Its dnsmasq is not there."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        kill(_pid(network))
        try:
            yield
        finally:
            scene.leave()
            scene.up()

    return broken


def unplugged(node: str) -> Breaks:
    """The node's link is no port of the bridge any more."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        port = _port(scene, node)
        bridge = Path(f"/sys/class/net/{port}/master").resolve().name
        sh("ip", "link", "set", port, "nomaster")
        try:
            yield
        finally:
            sh("ip", "link", "set", port, "master", bridge)

    return broken


def narrow(node: str, mtu: int) -> Breaks:
    """The node's port of the bridge takes less than it should."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        port = _port(scene, node)
        sh("ip", "link", "set", port, "mtu", str(mtu))
        try:
            yield
        finally:
            sh("ip", "link", "set", port, "mtu", "1500")

    return broken


def another(bridge: str, address: str) -> Breaks:
    """Somebody else's machine on the bridge, with an address that is not its own. Whoever has met it, forgets it."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        places = [each.place for each in scene.stand().spots.values()]
        try:
            with attached(bridge, STRANGER, name="stranger") as (place, _):
                place.run(["ip", "addr", "add", f"{address}/24", "dev", LINK])
                yield
        finally:
            for each in places:
                forget_neighbours(each)

    return broken


def knowing(bridge: str, address: str) -> Breaks:
    """Everybody there has known for long who has this address, and takes no other's word for it."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        mac = Path(f"/sys/class/net/{bridge}/address").read_text().strip()
        mine = [each for each in scene.document.model.clusters.values() if each.network.bridge == bridge]
        spots = scene.stand().spots
        places = [spot.place for name, spot in spots.items() if name.startswith(f"{mine[0].name}-")]
        for each in places:
            each.run(["ip", "neigh", "replace", address, "lladdr", mac, "dev", LINK, "nud", "permanent"])
        try:
            yield
        finally:
            for each in places:
                each.run(["ip", "neigh", "del", address, "dev", LINK])

    return broken


def second_server(bridge: str, address: str) -> Breaks:
    """Another DHCP server on the bridge, with the answers of the first: whoever is quicker, nothing else fails."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        specs = [each for each in scene.specs() if each.network.bridge == bridge]
        with attached(bridge, STRANGER, name="stranger") as (place, _):
            place.run(["ip", "addr", "add", f"{address}/24", "dev", LINK])
            argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--no-ping"]
            argv += ["--leasefile-ro", "--dhcp-authoritative", "--log-facility=-", "--log-dhcp", "--pid-file"]
            argv += [f"--interface={LINK}", f"--dhcp-range={specs[0].network.subnet.network_address},static"]
            argv += [f"--dhcp-host={node.mac},{node.ip}" for each in specs for node in each.nodes]
            argv += [f"--dhcp-option=option:{name},{specs[0].network.gateway}" for name in ("router", "dns-server")]
            server = place.at(lambda: subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
            try:
                assert server.stderr is not None
                assert any("DHCP, static leases only" in line for line in server.stderr)
                yield
            finally:
                server.kill()
                server.communicate()

    return broken


def at_once(*breaks: Breaks) -> Breaks:
    """All of them."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with ExitStack() as stack:
            for each in breaks:
                stack.enter_context(each(scene))
            yield

    return broken


def silent(node: str, port: int) -> Breaks:
    """What the node serves has ended: connections to it are refused, by the node."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        place = scene.stand().spots[node].place
        chain = f"type filter hook input priority 0; tcp dport {port} reject with tcp reset"
        place.run(["nft", f"add table inet gone {{ chain gone {{ {chain}; }}; }}"])
        try:
            yield
        finally:
            place.run(["nft", "delete", "table", "inet", "gone"])

    return broken


def _pid(network: str) -> int:
    return int(Path(f"/run/libvirt/network/{network}.pid").read_text())


def _port(scene: Scene, node: str) -> str:
    """The name of the node's port, as the host has it."""
    place = scene.stand().spots[node].place
    number = json.loads(place.run(["ip", "-json", "link", "show", "dev", LINK]))[0]["link_index"]
    return str(next(each["ifname"] for each in json.loads(sh("ip", "-json", "link")) if each["ifindex"] == number))
