"""What ai-how itself finds not as it was made. Loaded on demand: it takes our own environment."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ai_how.errors import HostError


def drift(uri: str, only: Collection[str] = ()) -> dict[str, Any]:
    """What was `found` of all clusters, or of those `only` (engine/drift.py), and why something of them is `unseen`.

    Raises HostError where this Python has not what that takes.
    """
    try:
        from ai_how.engine.cluster import clusters
        from ai_how.engine.status import survey
        from ai_how.host.libvirt import Libvirt
    except ImportError as error:
        raise HostError(
            "whether clusters are as they were made was not looked at",
            why=f"this Python has not what ai-how is made of: {error}",
            remedy="Ask ai-how doctor, in its own environment.",
        ) from error
    with Libvirt(uri) as libvirt:
        found = survey(libvirt, [(name, None) for name in only or clusters(libvirt)])
    differences = [
        {"cluster": status.cluster, "kind": each.kind.value, "key": each.key, "what": each.what}
        for status in found
        for each in status.drift
    ]
    return {"found": differences, "unseen": sorted({why for status in found for why in status.unseen})}
