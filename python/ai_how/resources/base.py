"""The one shape of a resource: identity, needs, and fields that say what changing them costs."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Protocol

#: All identities are uuid5 names below this one; changing it would orphan every cluster that exists.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ai-how")

#: The XML namespace of our mark in libvirt's <metadata>.
METADATA = "urn:ai-how:metadata:1"


class Kind(StrEnum):
    """The kinds of resource, one module each here and in providers/, from needs to dependants."""

    SYSCTL = "sysctl"
    FIREWALL = "firewall"
    PASSAGE = "passage"
    HOOK = "hook"
    SERVERS = "servers"
    POOL = "pool"
    NETWORK = "network"
    ROUTE = "route"
    RESOLVER = "resolver"
    VOLUME = "volume"
    SEED = "seed"
    DOMAIN = "domain"
    REGISTRATION = "registration"


#: What is of the host outside libvirt, and takes root to change. They are computed from all clusters on the host.
OF_THE_HOST = frozenset({Kind.SYSCTL, Kind.FIREWALL, Kind.PASSAGE, Kind.HOOK, Kind.SERVERS, Kind.ROUTE, Kind.RESOLVER})


class Impact(StrEnum):
    """What a change costs those who use the resource, cheapest first."""

    LIVE = "live"
    RESTART = "restart"
    RECREATE = "recreate"


_WEIGHT = {Impact.LIVE: 0, Impact.RESTART: 1, Impact.RECREATE: 2}


def worst(impacts: tuple[Impact, ...]) -> Impact:
    """The most expensive of `impacts`; `live` where there are none."""
    return max(impacts, key=_WEIGHT.__getitem__, default=Impact.LIVE)


@dataclass(frozen=True, slots=True)
class ResourceId:
    """What names a resource on a host: kind and key are unique together."""

    kind: Kind
    key: str

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class Resource(Protocol):
    """Anything that can be planned: frozen data that knows its name and what it stands on."""

    kind: ClassVar[Kind]

    @property
    def key(self) -> str:
        """The name on the host, unique within the kind."""

    @property
    def up(self) -> bool:
        """Whether it is at work (running, active), as opposed to merely there."""

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        """The resources that must exist before this one, and be removed after it."""


def identify(resource: Resource) -> ResourceId:
    """The identity of a resource."""
    return ResourceId(resource.kind, resource.key)


def identity_uuid(kind: Kind, name: str) -> uuid.UUID:
    """The UUID that makes a libvirt object ours: deterministic, from kind and name."""
    return uuid.uuid5(NAMESPACE, f"{kind}/{name}")


class Plain:
    """The part of a resource that is at work as soon as it is there, and stands on nothing unless it says so."""

    __slots__ = ()

    @property
    def up(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return ()


def managed(impact: Impact, **options: Any) -> Any:
    """A field whose change is applied, at this cost. Fields without it never change in a resource's life.

    `options` are those of dataclasses.field.
    """
    return field(metadata={"impact": impact}, **options)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that differs: what is there and what shall be."""

    field: str
    old: object
    new: object
    impact: Impact


def changes(want: Resource, have: Resource) -> tuple[FieldChange, ...]:
    """How `have` must change to become `want`; empty where nothing differs."""
    if want == have:
        return ()
    found = []
    for each in fields(want):  # type: ignore[arg-type]  # every resource is a dataclass
        old, new = getattr(have, each.name), getattr(want, each.name)
        if old != new:
            found.append(FieldChange(each.name, old, new, each.metadata.get("impact", Impact.RECREATE)))
    return tuple(found)
