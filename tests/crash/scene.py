"""What clusters there are when a run is killed: configurations for every DNS mode, and what the mode has around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.consul_agent import Agent, agent
from tests.lab.resolvers import resolving_by

from ai_how.config.load import Document, load_mapping
from ai_how.spec.network import DnsMode

NAME, PEER = "tried", "peer"

_MACHINE = {"cpu_cores": 1, "memory_gb": 0.0625, "disk_gb": 1}
_OF_THE_MODE: dict[DnsMode, dict[str, Any]] = {
    DnsMode.ISOLATED: {},
    DnsMode.SHARED_DNS: {},
    # A route of the host to the LAN's router; the peer has none.
    DnsMode.ROUTED: {"routes": [{"to": "10.77.0.0/16", "via": "203.0.113.1"}]},
    DnsMode.SERVICE_DISCOVERY: {"service_discovery": {"check": {"port": 22}}},
}


def cluster(mode: DnsMode, image: Path) -> Document:
    """The cluster as it is brought up first."""
    return _document(
        NAME,
        image,
        {"subnet": "10.44.0.0/24", "bridge": "br-tried", "dns_mode": str(mode)}
        | {"firewall": {"expose": ["8001:tried-controller:80"]}, "dns_servers": ["10.44.0.1", "8.8.8.8"]}
        | _OF_THE_MODE[mode],
        controller="10.44.0.2",
        computes={"tried-goes": "10.44.0.11"},
    )


def changed(mode: DnsMode, image: Path) -> Document:
    """The same cluster with a node more and one less, another reservation, one exposure more, other forwarders."""
    return _document(
        NAME,
        image,
        {"subnet": "10.44.0.0/24", "bridge": "br-tried", "dns_mode": str(mode)}
        | {
            "firewall": {"expose": ["8001:tried-controller:80", "8002:tried-comes:80"]},
            "dns_servers": ["10.44.0.1", "1.1.1.1"],
        }
        | _OF_THE_MODE[mode],
        controller="10.44.0.3",
        computes={"tried-comes": "10.44.0.12"},
    )


def peer(mode: DnsMode, image: Path) -> Document | None:
    """Another cluster of the host, which must not notice anything; in `isolated` there is none: all that our clusters
    need of the host comes and goes with the one that is tried."""
    if mode is DnsMode.ISOLATED:
        return None
    network = {"subnet": "10.45.0.0/24", "bridge": "br-peer", "dns_mode": str(mode)}
    return _document(PEER, image, network, controller="10.45.0.2", computes={})


def _document(
    name: str, image: Path, network: dict[str, Any], *, controller: str, computes: dict[str, str]
) -> Document:
    return load_mapping(
        {
            "clusters": {
                name: {
                    "name": name,
                    "base_image_path": str(image),
                    "network": network,
                    "controller": _MACHINE | {"ip": controller},
                    "compute_nodes": [_MACHINE | {"name": node, "ip": ip} for node, ip in computes.items()],
                }
            }
        }
    )


@contextlib.contextmanager
def surroundings(mode: DnsMode, folder: Path) -> Iterator[Agent | None]:
    """What the mode needs beside clusters: a Consul (which is returned), a resolver of the host."""
    with contextlib.ExitStack() as stack:
        if mode is DnsMode.SERVICE_DISCOVERY:
            yield stack.enter_context(agent(folder / "consul"))
            return
        if mode is DnsMode.SHARED_DNS:
            stack.enter_context(resolving_by("systemd_resolved"))
        yield None
