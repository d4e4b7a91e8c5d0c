"""Consul from the engine's side: what its absence means for each verb."""

from __future__ import annotations

from ai_how.engine.events import Note, Progress
from ai_how.engine.observe import Observed
from ai_how.resources.base import Resource
from ai_how.resources.registration import Registration
from ai_how.spec.cluster import Cluster


def discoverable(
    want: tuple[Resource, ...], spec: Cluster, observed: Observed, progress: Progress
) -> tuple[Resource, ...]:
    """`want`, without its registrations where Consul is away and the configuration does without.

    Raises HostError where it does not.
    """
    discovery = spec.network.policy.discovery
    if discovery is None or observed.unseen is None:
        return want
    if discovery.required:
        raise observed.unseen
    progress(Note(f"nodes are not registered in Consul: {observed.unseen}; a later `up` does it", warning=True))
    return tuple(each for each in want if not isinstance(each, Registration))


def leave_registered(observed: Observed, progress: Progress) -> None:
    """Where Consul is away, say that its entries stay."""
    if observed.unseen is not None:
        progress(Note(f"nodes stay registered in Consul: {observed.unseen}", warning=True))
