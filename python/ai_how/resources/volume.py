"""A node's disk: a qcow2 overlay of the cluster's base image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from ai_how.resources import xml
from ai_how.resources.base import Impact, Kind, Plain, ResourceId, managed

SUFFIX = ".qcow2"


@dataclass(frozen=True, slots=True)
class Volume(Plain):
    """`capacity` is the size the guest sees, in bytes; `backing` the base image that it never writes to."""

    kind: ClassVar[Kind] = Kind.VOLUME

    pool: str
    name: str
    capacity: int = managed(Impact.RESTART)
    backing: PurePosixPath = managed(Impact.RECREATE)

    @property
    def key(self) -> str:
        return f"{self.pool}/{self.name}"

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return (ResourceId(Kind.POOL, self.pool),)

    @property
    def node(self) -> str:
        """The node whose disk this is."""
        return self.name.removesuffix(SUFFIX)

    def to_xml(self) -> str:
        """The volume as libvirt reads it."""
        document = xml.root("volume", type="file")
        xml.child(document, "name", self.name)
        xml.child(document, "capacity", str(self.capacity), unit="bytes")
        target = xml.child(document, "target")
        xml.child(target, "format", type="qcow2")
        xml.child(xml.child(target, "permissions"), "mode", "0600")
        # qcow2 version 3: without this libvirt makes version 2, which cannot give zeroed space back.
        xml.child(target, "compat", "1.1")
        backing = xml.child(document, "backingStore")
        xml.child(backing, "path", str(self.backing))
        xml.child(backing, "format", type="qcow2")
        return xml.render(document)


def read_volume(text: str, *, pool: str) -> Volume:
    """The volume that libvirt's XML describes."""
    document = xml.parse(text)
    return Volume(
        pool=pool,
        name=document.findtext("name", ""),
        capacity=int(document.findtext("capacity", "0")),
        backing=PurePosixPath(document.findtext("backingStore/path", "")),
    )
