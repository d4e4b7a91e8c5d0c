"""Consul from the engine's side: what its absence means for each verb."""

from __future__ import annotations

from ai_how.engine.events import Note, Progress
from ai_how.engine.observe import Observed
from ai_how.errors import HostError
from ai_how.host.consul import check_consul
from ai_how.providers import registration
from ai_how.resources.base import Resource
from ai_how.resources.registration import Registration
from ai_how.spec.cluster import Cluster


def discoverable(
    want: tuple[Resource, ...], spec: Cluster, observed: Observed, progress: Progress
) -> tuple[Resource, ...]:
    """`want`, with registrations as they are where Consul is away and the configuration does without.

    Raises HostError where it does not.
    """
    discovery = spec.network.policy.discovery
    if discovery is None:
        return want
    try:
        check_consul(discovery)
    except HostError as error:
        if discovery.required:
            raise
        progress(Note(f"nodes are not registered in Consul, a later up does it: {error}", warning=True))
        there = [each for each in observed.resources if isinstance(each, Registration)]
        others = [each for each in want if not isinstance(each, Registration)]
        return (*others, *(each for each in there if each.agent == discovery.address))
    return want


def leave_registered(observed: Observed, cluster: str, progress: Progress) -> None:
    """Where Consul is away, say what becomes of the entries of a cluster that goes."""
    network = observed.network
    if observed.unseen is None or network is None or network.policy.discovery is None:
        return
    if network.policy.firewall.enabled and not registration.was_told(cluster, network.policy.discovery):
        return  # its rules took root, which remembers whom it tells: Consul has never been there
    nodes = [each.name for each in network.reservations]
    what = registration.remember_pending(cluster, network.policy.discovery, nodes)
    progress(Note(f"nodes stay registered in Consul: {observed.unseen}\n{what}", warning=True))


def settle(observed: Observed, progress: Progress) -> None:
    """Take back what Consul still has of clusters that are gone, and say where it cannot be."""
    for why in registration.settle(observed.networks):
        progress(Note(why, warning=True))
