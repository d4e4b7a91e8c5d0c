"""A storage pool: the directory that holds one cluster's disks (libvirt's storage format, type "dir")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from ai_how.resources import xml
from ai_how.resources.base import Impact, Kind, ResourceId, identity_uuid, managed
from ai_how.resources.hook import PATH as HOOK_PATH


@dataclass(frozen=True, slots=True)
class Pool:
    """One directory per cluster, so that removing the cluster removes all of its files."""

    kind: ClassVar[Kind] = Kind.POOL

    name: str
    path: PurePosixPath = managed(Impact.RECREATE)
    active: bool = managed(Impact.LIVE)

    @property
    def key(self) -> str:
        return self.name

    @property
    def up(self) -> bool:
        return self.active

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        # libvirt looks at all pools when it is told of a new hook, and may take for active one that is just being made.
        # A cluster without rules does without the hook.
        return (ResourceId(Kind.HOOK, HOOK_PATH),)

    def to_xml(self) -> str:
        """The pool as libvirt reads it."""
        document = xml.root("pool", type="dir")
        xml.child(document, "name", self.name)
        xml.child(document, "uuid", str(identity_uuid(self.kind, self.name)))
        target = xml.child(document, "target")
        xml.child(target, "path", str(self.path))
        # Others may pass through to their own file, none may list: QEMU runs as its own user.
        xml.child(xml.child(target, "permissions"), "mode", "0711")
        return xml.render(document)


def read_pool(text: str, *, active: bool) -> Pool:
    """The pool that libvirt's XML describes."""
    document = xml.parse(text)
    return Pool(
        name=document.findtext("name", ""),
        path=PurePosixPath(document.findtext("target/path", "")),
        active=active,
    )
