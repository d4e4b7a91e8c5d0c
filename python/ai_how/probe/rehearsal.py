"""A configuration tried in a lab, before any host has seen it: its clusters brought up as they are, with endpoints in
place of their machines.

What a lab cannot have is left out, and said: base images (no machine boots), a host's resolver, a Consul that is not
installed. Routers of declared routes are a link away, and forward nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.config.load import Document
from ai_how.config.model import DiscoveryConfig
from ai_how.config.terms import Accelerator, DnsMode, HostResolver
from ai_how.engine import cluster as engine
from ai_how.engine.events import Progress
from ai_how.host.libvirt import Libvirt
from ai_how.host.process import output
from ai_how.lab import INTERNET
from ai_how.probe import registry
from ai_how.spec.cluster import Cluster
from ai_how.spec.resolve import resolve_all


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """The configuration as it is brought up in the lab, and what of it is otherwise there."""

    document: Document
    notes: tuple[str, ...]


def adapt(document: Document, image: Path, *, consul: bool) -> Rehearsed:
    """The configuration for a lab: pure. `consul` says whether there is one."""
    notes: dict[str, None] = {}
    clusters = {}
    for key, config in document.model.clusters.items():
        network = config.network
        if network.dns_mode is DnsMode.SHARED_DNS and network.host_resolver is not HostResolver.NONE:
            notes["a lab has no resolver of a host's: that the host knows the names is not rehearsed"] = None
            network = network.model_copy(update={"host_resolver": HostResolver.NONE})
        if network.dns_mode is DnsMode.SERVICE_DISCOVERY:
            if not consul:
                notes["there is no Consul to run in the lab: its names are not rehearsed"] = None
            asked = network.service_discovery or DiscoveryConfig.model_validate({})
            # The lab's own agent is where one is by default, and trusts everybody.
            keep = {each: getattr(asked, each) for each in ("service_name", "tags")}
            discovery = DiscoveryConfig.model_validate({**keep, "check": {"interval": 1}, "required": False})
            network = network.model_copy(update={"service_discovery": discovery})
        clusters[key] = config.model_copy(
            update={"base_image_path": image, "network": network, "accelerator": Accelerator.TCG}
        )
    model = document.model.model_copy(update={"clusters": clusters})
    return Rehearsed(replace(document, model=model), tuple(notes))


@contextmanager
def brought_up(libvirt: Libvirt, document: Document, progress: Progress) -> Iterator[Rehearsed]:
    """Every cluster of `document`, brought up in this lab with its internet. The lab ends with them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ai-how-rehearsal-")))
        image = folder / "blank.qcow2"
        output(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"])
        consul = registry.installed()
        if consul:
            stack.enter_context(registry.agent(folder))
        rehearsed = adapt(document, image, consul=consul)
        clusters = resolve_all(rehearsed.document)
        _reach_routers(clusters)
        site = engine.Site(libvirt, folder / "state.json", progress)
        for each in clusters:
            engine.up(site, rehearsed.document, each.key, start=False, wait=False)
        yield rehearsed


def _reach_routers(clusters: tuple[Cluster, ...]) -> None:
    """Routers outside are on the lab's link, which has not their addresses."""
    vias = {
        route.via
        for each in clusters
        for route in each.network.policy.routes
        if route.via is not None and not any(route.via in other.network.subnet for other in clusters)
    }
    lines = [f"route replace {via}/32 dev {INTERNET.uplink}\n" for via in sorted(vias - {INTERNET.router})]
    if lines:
        output(["ip", "-batch", "-"], text="".join(lines))
