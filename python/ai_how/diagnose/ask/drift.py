"""What ai-how itself finds not as it was made. Loaded on demand: it takes our own environment."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ai_how.errors import HostError, StateError


def drift(uri: str, only: Collection[str] = ()) -> dict[str, Any]:
    """What was `found` of all clusters, or of those `only` (engine/drift.py), and why something of them is `unseen`.

    Raises HostError where this Python has not what that takes.
    """
    try:
        from ai_how.engine.cluster import clusters
        from ai_how.engine.status import survey
        from ai_how.host.libvirt import Libvirt
    except ImportError as error:
        raise _elsewhere("whether clusters are as they were made was not looked at", error) from error
    with Libvirt(uri) as libvirt:
        found = survey(libvirt, [(name, None) for name in only or clusters(libvirt)])
    differences = [
        {"cluster": status.cluster, "kind": each.kind.value, "key": each.key, "what": each.what}
        for status in found
        for each in status.drift
    ]
    return {"found": differences, "unseen": sorted({why for status in found for why in status.unseen})}


def state(path: Path) -> list[str]:
    """What of the state file at `path` is not as it is after a run that ended: unreadable, or cut off. Raises
    HostError."""
    try:
        from ai_how.engine.state import read_state
    except ImportError as error:
        raise _elsewhere(f"the state file {path} was not looked at", error) from error
    try:
        records = read_state(path)
    except StateError as error:
        return [f"{error.what}: {error.why}", error.remedy]
    return [
        f"{path}: ai-how {each.run.verb} of {each.run.started} for cluster {name} was cut off, or is at work"
        for name, each in sorted(records.items())
        if each.run is not None
    ]


def _elsewhere(what: str, error: ImportError) -> HostError:
    return HostError(
        what,
        why=f"this Python has not what ai-how is made of: {error}",
        remedy="Ask ai-how doctor, in its own environment.",
    )
