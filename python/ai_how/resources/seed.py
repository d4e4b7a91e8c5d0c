"""A node's seed: the small image from which cloud-init learns who the node is (its NoCloud data source).

The file's name carries a digest of its content, so a seed never changes: new content is a new seed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import ClassVar

from ai_how.resources.base import Kind, Plain, ResourceId

SUFFIX = ".iso"


@dataclass(frozen=True, slots=True)
class SeedContent:
    """NoCloud's documents as text (cloud-init, "NoCloud" data source)."""

    meta_data: str
    user_data: str

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this content."""
        return hashlib.sha256(f"{self.meta_data}\0{self.user_data}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Seed(Plain):
    """`name` is the file in the pool; `content` is None for a seed seen on a host, whose name says it all."""

    kind: ClassVar[Kind] = Kind.SEED

    pool: str
    name: str
    content: SeedContent | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        return f"{self.pool}/{self.name}"

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return (ResourceId(Kind.POOL, self.pool),)


def node_content(node: str, fqdn: str) -> SeedContent:
    """The least a node must be told: its identity and its name. JSON is YAML, so nothing needs quoting by hand."""
    return SeedContent(
        meta_data=json.dumps({"instance-id": node, "local-hostname": fqdn}),
        user_data="#cloud-config\n" + json.dumps({"preserve_hostname": False, "fqdn": fqdn}) + "\n",
    )
