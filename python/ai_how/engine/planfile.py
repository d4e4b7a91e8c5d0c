"""A plan in a file: what was going to be done, to which clusters, from which configuration, on which host.

The file carries its configuration, so that what was looked at is what is carried out. The plan itself is made anew
and compared: a host that has changed since is seen.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how import __version__
from ai_how.config.load import PLAN_KEY, Document, load_text
from ai_how.engine.prepare import Prepared
from ai_how.errors import PlanStale, UsageError
from ai_how.host.files import refuse_special, write_atomically
from ai_how.host.machine import machine_identity
from ai_how.plan.document import plan_document

#: The version of the format; that key makes a JSON document a plan file.
_FORMAT = 1

#: A plan of 10,000 nodes has about 12 MiB.
_MAX_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlanFile:
    """`document` is the configuration, `digests` has the plan of each cluster (Plan.digest) by its key."""

    document: Document
    start: bool
    digests: dict[str, str]


def write_plan(path: Path, document: Document, uri: str, found: Iterable[Prepared], *, start: bool) -> None:
    """Write what was found for clusters of `document`. Raises UsageError where the file cannot be written."""
    content = {
        PLAN_KEY: _FORMAT,
        "version": __version__,
        "host": machine_identity(),
        "uri": uri,
        "file": document.file,
        "folder": str(document.folder),
        "configuration": document.text,
        "start": start,
        "clusters": [
            {"key": each.spec.key, "digest": each.plan.digest, **plan_document(each.spec.name, each.plan)}
            for each in found
        ],
    }
    try:
        refuse_special(path)
        source = Path(document.file or "")
        if source.is_file() and path.exists() and path.samefile(source):
            raise OSError(errno.EEXIST, "this is its configuration")
        write_atomically(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UsageError(
            f"the plan cannot be written to {path}", why=error.strerror or str(error), remedy="Choose another place."
        ) from error


def read_plan(path: Path, uri: str) -> PlanFile | None:
    """The plan in the file, None where it is none (a configuration, or nothing that can be read).

    Raises PlanStale where it was made by another version of ai-how, on another host, or for another libvirt, or is cut
    off.
    """
    content = _content(path)
    if content is None:
        return None
    _refuse_elsewhere(path, content, uri)
    for key, form in (("configuration", str), ("folder", str), ("file", str), ("start", bool), ("clusters", list)):
        if not isinstance(content.get(key), form):
            raise _not_whole(path, f"its {key} is missing or wrong")
    document = load_text(content["configuration"], Path(content["folder"]), content["file"])
    try:
        digests = {str(each["key"]): str(each["digest"]) for each in content["clusters"]}
    except (KeyError, TypeError) as error:
        raise _not_whole(path, "a cluster in it is without its key or digest") from error
    if not digests:
        raise _not_whole(path, "it names no cluster")
    if unknown := sorted(digests.keys() - document.model.clusters.keys()):
        raise _not_whole(path, f"its configuration has no cluster {', '.join(unknown)}")
    return PlanFile(document, content["start"], digests)


def _not_whole(path: Path, why: str) -> PlanStale:
    return PlanStale(f"{path} is not a whole plan", why=why, remedy="Make it again: ai-how plan -o.")


def _content(path: Path) -> dict[str, Any] | None:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None  # a pipe can be read once only, and that is for the reader of configurations
        text = path.read_text(encoding="utf-8-sig").lstrip()
    except (OSError, ValueError):
        return None  # whatever it is, the reader of configurations says what is wrong with it
    if not text.startswith("{"):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if f'"{PLAN_KEY}"' in text[:100]:
            raise _not_whole(path, f"it was cut off or edited: {error}") from error
        return None
    return content if isinstance(content, dict) and PLAN_KEY in content else None


def _refuse_elsewhere(path: Path, content: dict[str, Any], uri: str) -> None:
    for what, there, here in (
        ("in another format", content[PLAN_KEY], _FORMAT),
        ("by another version of ai-how", content.get("version"), __version__),
        ("on another host", content.get("host"), machine_identity()),
        ("for another libvirt", content.get("uri"), uri),
    ):
        if there != here:
            shown = "" if what == "on another host" else f": {there}, and this is {here}"
            raise PlanStale(
                f"the plan {path} is not carried out",
                why=f"it was made {what}{shown}",
                remedy="Make it again here, and look at it: ai-how plan -o.",
            )
