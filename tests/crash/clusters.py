"""The clusters of one lab, and what the host looks like with and without them.

This process has no libvirt connection and no thread of its own: whatever is done with a cluster is done in a child
(victim.in_child), so that each child is as fresh as a new `ai-how`.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from tests.crash import scene
from tests.crash.point import Verb
from tests.host_view import SETTLES_WITHIN, HostView, define_everything_once, look_at_host, use_networks_once
from tests.lab.consul_agent import Agent
from tests.waiting import until

from ai_how.config.load import Document
from ai_how.engine import cluster as engine
from ai_how.engine.events import Progress, silent
from ai_how.host.libvirt import Libvirt
from ai_how.spec.network import DnsMode

#: PID files of stopped networks, which libvirt leaves, and what a resolver writes for itself, which is asked instead.
_OTHERS_OWN = ("/run/libvirt/network/", "/run/systemd/resolve/")

#: What differs between two hosts with the same cluster on them: what happened, not what is there. The state of a
#: machine and what libvirt notes while one runs are seen with their names (`libvirt domains`), disks with theirs.
_HISTORY = re.compile(
    r"^/run/|^/var/lib/libvirt/qemu/(?:\S*domain-|\S*/monitor|channel/|dump|snapshot|\S*\.sock)|"
    r"^/var/lib/libvirt/dnsmasq/\S+(?:hosts|names|hostsfile|addnhosts) |"
    r"^/etc/libvirt/\S+/autostart |\.(?:leases|status|macs|pid)\b|/random-seed|\.monitor"
)
_DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
_SERVED = re.compile(r"\.(?:hosts|names|hostsfile|addnhosts)$")
#: What shows whether links have settled, and seconds within which the kernel notices a carrier, or does not.
_OF_LINKS, _NOTICED_WITHIN = ("links", "addresses", "routes", "routes (IPv6)"), 1.5

#: Taps are numbered on and on, and the kernel gives every link addresses of its own a moment later.
_OF_A_LINK = re.compile(r"fe80::|ff00::|\bvnet\d")
_HASH_OF_DISK = re.compile(r"^(/var/lib/libvirt/images/\S+ \S+ \S+) \S+$")


class Clusters:
    """The cluster that is tried, as it is brought up `first` and as `second` would change it, and its peer."""

    def __init__(self, mode: DnsMode, folder: Path, image: Path, consul: Agent | None) -> None:
        self.mode, self.folder, self.consul = mode, folder, consul
        self.state = folder / "cluster_state.json"
        self.first = scene.cluster(mode, image)
        self.second = scene.changed(mode, image)
        self.peer = scene.peer(mode, image)

    def prepare(self) -> None:
        """Bring up the peer; called once, in a child."""
        if self.peer is not None:
            self.up(self.peer)

    def up(self, document: Document, progress: Progress = silent) -> list[str]:
        """The steps that it took."""
        state = self.folder / "peer_state.json" if document is self.peer else self.state
        with Libvirt() as libvirt:
            [key] = document.model.clusters
            site = engine.Site(libvirt, state, progress)
            done = engine.up(site, document, key, wait=False, remove_nodes=True, disturb_nodes=True)
            return [str(step) for step in done.steps]

    def down(self, progress: Progress = silent) -> list[str]:
        """The same; machines are powered off at once."""
        with Libvirt() as libvirt:
            done = engine.down(engine.Site(libvirt, self.state, progress), scene.NAME, within=0)
            return [str(step) for step in done.steps]

    def destroy(self, progress: Progress = silent) -> list[str]:
        """The same."""
        with Libvirt() as libvirt:
            done = engine.destroy(engine.Site(libvirt, self.state, progress), scene.NAME)
            return [str(step) for step in done.steps]

    def do(self, verb: Verb, progress: Progress) -> list[str]:
        """What is killed."""
        match verb:
            case Verb.UP:
                return self.up(self.first, progress)
            case Verb.CHANGE:
                return self.up(self.second, progress)
            case Verb.DOWN:
                return self.down(progress)
            case Verb.DESTROY:
                return self.destroy(progress)

    def look(self, parts: Collection[str] = ()) -> HostView:
        """All of the host (or these parts of it), the user's folder, Consul, and the host's resolver."""
        view = look_at_host(parts)
        view["files"] = [each for each in view["files"] if not each.startswith(_OTHERS_OWN)]
        view["folder"] = sorted(each.name for each in self.folder.iterdir() if each.name != "consul")
        view["consul"] = [] if self.consul is None else sorted(map(str, self.consul.services().items()))
        view["resolver"] = _told_resolver() if self.mode is DnsMode.SHARED_DNS else []
        return view

    def look_settled(self) -> HostView:
        """What must be the same after every completed `up`, whatever happened before."""
        view = self.look(("nft", "iptables", "rules", "routes", "files", "libvirt networks", "libvirt pools"))
        view["files"] = [_HASH_OF_DISK.sub(r"\1", each) for each in view["files"] if not _HISTORY.search(each)]
        view["routes"] = [each.replace(" linkdown", "") for each in view["routes"] if not _OF_A_LINK.search(each)]
        view["libvirt domains"] = _machines()
        view["reservations and names"] = _served()
        return view


def use_libvirt_once() -> None:
    """What libvirt makes at the first use is there before anything is compared."""
    _DNSMASQ.mkdir(exist_ok=True)  # as Debian's package makes it
    use_networks_once()
    define_everything_once()


def until_links_settle() -> None:
    """The kernel notices a carrier after up to a second, and gives links addresses that are theirs a moment later
    (RFC 4862)."""

    def settled() -> bool:
        before = look_at_host(_OF_LINKS)
        time.sleep(_NOTICED_WITHIN)
        now = look_at_host(_OF_LINKS)
        return now == before and not any("tentative" in each for each in now["addresses"])

    until(settled, "links settle", SETTLES_WITHIN)


def _told_resolver() -> list[str]:
    """What the host's resolver was told of each bridge."""
    said = [
        subprocess.run(["resolvectl", "--no-pager", each], check=True, capture_output=True, text=True).stdout
        for each in ("dns", "domain")
    ]
    links = re.compile(r"^Link \d+ (\(br-.*)", re.MULTILINE)
    return [each for text in said for each in links.findall(text)]


def _served() -> list[str]:
    """The reservations and names of the cluster's network; which are in libvirt's files and which in ours is a
    matter of history."""
    found = set()
    for path in _DNSMASQ.glob(f"*{scene.NAME}-network.*"):
        if _SERVED.search(path.name):
            found |= {" ".join(line.split()) for line in path.read_text().splitlines() if not line.startswith("#")}
    return sorted(found - {""})


def _machines() -> list[str]:
    """Every machine with its state."""
    ran = subprocess.run(["virsh", "-q", "list", "--all"], check=True, capture_output=True, text=True)
    return sorted(" ".join(line.split()[1:]) for line in ran.stdout.splitlines())
