"""Reading a host: what it has of a cluster, and what of others matters to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from ai_how.errors import AiHowError, HostError, NotOurs
from ai_how.host.libvirt import Libvirt
from ai_how.host.routes import Route
from ai_how.providers import PROVIDERS
from ai_how.providers import network as networks
from ai_how.resources.base import OF_THE_HOST, Kind, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork
from ai_how.spec.known import Known
from ai_how.spec.node import MacAddress


@dataclass(frozen=True, slots=True)
class Observed:
    """What a host has: of one cluster (`resources`), of its own for all clusters (`host`), and every network.

    `unseen` is why the cluster's registrations could not be looked at, None where they could.
    """

    resources: tuple[Resource, ...]
    networks: tuple[VirtualNetwork, ...]
    host: tuple[Resource, ...] = ()
    unseen: AiHowError | None = None

    @property
    def everything(self) -> tuple[Resource, ...]:
        """What can be planned against."""
        return (*self.resources, *self.host)

    @property
    def network(self) -> VirtualNetwork | None:
        """The cluster's network, None where it is not there."""
        return next((each for each in self.resources if isinstance(each, VirtualNetwork)), None)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The cluster's machines."""
        return tuple(each for each in self.resources if isinstance(each, Domain))


def observe(libvirt: Libvirt, cluster: str, *, host: bool = True) -> Observed:
    """Read everything of `cluster` from the host; without `host`, only what libvirt has of it."""
    # Machines take longest, mostly to wait for libvirt: the rest is looked at meanwhile.
    with ThreadPoolExecutor(1) as aside:
        machines = aside.submit(PROVIDERS[Kind.DOMAIN].observe, libvirt, cluster)
        everything = networks.observe_all(libvirt)
        found: list[Resource] = [each for each in everything if each.cluster == cluster]
        unseen = None
        outside = observe_host(libvirt) if host else ()
        for kind, provider in PROVIDERS.items():
            if kind is Kind.REGISTRATION:
                try:
                    found.extend(provider.observe(libvirt, cluster) if host else ())
                except HostError as error:
                    # Consul may be away; what that means is for each verb to say.
                    unseen = error
            elif kind not in (Kind.NETWORK, Kind.DOMAIN) and kind not in OF_THE_HOST:
                found.extend(provider.observe(libvirt, cluster))
        return Observed((*found, *machines.result()), tuple(everything), outside, unseen)


def observe_host(libvirt: Libvirt) -> tuple[Resource, ...]:
    """What the host has of ours outside libvirt, for all clusters together."""
    return tuple(each for kind in PROVIDERS if kind in OF_THE_HOST for each in PROVIDERS[kind].observe(libvirt, ""))


def known(observed: Observed, routes: Iterable[Route], cluster: str) -> Known:
    """What the host remembers for the addressing of `cluster`: addresses, MACs, and the subnets that others use."""
    mine = next((each for each in observed.networks if each.cluster == cluster), None)
    reservations = () if mine is None else mine.reservations
    macs = {domain.name: MacAddress(domain.mac) for domain in observed.domains if domain.cluster == cluster}
    macs |= {each.name: MacAddress(each.mac) for each in reservations}
    return Known(
        addresses={each.name: each.ip for each in reservations},
        macs=macs,
        subnet=None if mine is None else mine.subnet,
        taken=tuple(_taken(observed, routes, mine)),
    )


def _taken(
    observed: Observed, routes: Iterable[Route], mine: VirtualNetwork | None
) -> Iterator[tuple[IPv4Network, str]]:
    """Subnets in use by anything but the network `mine`, each with its owner in words."""
    for each in observed.networks:
        if each is not mine and each.subnet.prefixlen < 32:
            yield each.subnet, f"network {each.name}" + (f" of cluster {each.cluster}" if each.cluster else "")
    for route in routes:
        # Its definition may have been edited to another bridge than the one it runs on.
        own = mine is not None and (route.link == mine.bridge or (mine.active and route.network == mine.subnet))
        if not own:
            yield route.network, f"a route of this host through {route.link}"


def refuse_clashes(libvirt: Libvirt, want: Iterable[Resource], observed: Observed) -> None:
    """Raise NotOurs where a name that is to be made belongs to somebody else. Nothing was changed yet.

    What is outside libvirt can be remembered as ours, and be somebody else's by now: asked about where it differs.
    """
    present = {(each.kind, each.key): each for each in observed.everything}
    unsure: dict[Kind, list[Resource]] = {}
    for each in want:
        have = present.get((each.kind, each.key))
        if have is None or (each.kind in OF_THE_HOST and have != each):
            unsure.setdefault(each.kind, []).append(each)
    for kind, resources in unsure.items():
        for name, owner in PROVIDERS[kind].foreign(libvirt, {each.key for each in resources}).items():
            raise NotOurs(
                f"{kind} {name} cannot be made",
                why=f"there is already {owner}",
                remedy="Remove that one yourself if you no longer need it."
                if kind in OF_THE_HOST
                else "Give the cluster another name, or remove that one yourself if you no longer need it.",
            )
        for each in resources:
            if isinstance(each, VirtualNetwork):
                _refuse_bridge(each, observed)


def _refuse_bridge(want: VirtualNetwork, observed: Observed) -> None:
    owner = next((each for each in observed.networks if each.bridge == want.bridge), None)
    if owner is not None:
        why = f"network {owner.name} uses this bridge" + (f" (cluster {owner.cluster})" if owner.cluster else "")
    elif Path("/sys/class/net", want.bridge).exists():
        why = "a link of this name exists on the host and is not ours"
    else:
        return
    raise NotOurs(
        f"bridge {want.bridge} of network {want.name} cannot be made",
        why=why,
        remedy="Choose another name of at most 15 characters for network.bridge.",
    )
