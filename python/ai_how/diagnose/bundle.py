"""What a host said, in a file that can be sent: a tar archive, gzip, with the capture that the verdict is made of.

Secrets are taken out before anything is written (redact.py). What is read back is data: one member, of bounded size,
and nothing is unpacked.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how import __version__
from ai_how.diagnose import report
from ai_how.diagnose.ask import gather
from ai_how.diagnose.ask.logs import logs
from ai_how.diagnose.capture import Capture
from ai_how.diagnose.causes import Diagnosis
from ai_how.diagnose.doctor import judge
from ai_how.diagnose.facts import Part
from ai_how.diagnose.question import Question, read_question
from ai_how.diagnose.redact import redact_all
from ai_how.errors import HostError, UsageError
from ai_how.host.files import half, refuse_special

VERSION = 1
_CAPTURE = "capture.json"

#: Bytes of a capture at most: a host with 10,000 machines has some 60 million.
_MOST = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """What a bundle holds, and how many secrets were `removed`."""

    members: tuple[str, ...]
    removed: int


def write_bundle(path: Path, uri: str, state: Path | None = None) -> Made:
    """Write what this host, its libvirt at `uri` and the file at `state` say to `path`, for its owner alone.

    Raises HostError.
    """
    question = Question()
    capture = gather(uri, question, state)
    parts: dict[Part, Any] = dict(capture.parts)
    parts[Part.LOGS] = logs()
    plain, removed = redact_all({"version": VERSION, "ai_how": __version__, **_to_json(parts, capture.missing)})
    # The verdict is of what is in the file, so that it is the same wherever it is read.
    diagnosis = judge(_capture(plain), question)
    members = dict(_members(plain, diagnosis))
    try:
        refuse_special(path)
        _write(path, members)
    except OSError as error:
        raise HostError(
            f"the bundle {path} cannot be written",
            why=error.strerror or str(error),
            remedy="Choose another place: ai-how support-bundle -o FILE",
        ) from error
    return Made(tuple(members), removed)


def judge_file(path: Path, words: Sequence[str]) -> Diagnosis:
    """The verdict on what a bundle holds. Raises UsageError where it is none."""
    question = read_question(words)
    return judge(_capture(read_bundle(path)), question)


def read_bundle(path: Path) -> Mapping[str, Any]:
    """The capture in the bundle at `path`, as JSON. Raises UsageError."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            member = next((each for each in archive if each.name == _CAPTURE), None)
            if member is None or not member.isreg():  # a link could lead to whatever else is in there
                raise ValueError(f"it has no file {_CAPTURE}")
            if member.size > _MOST:
                raise ValueError(f"its {_CAPTURE} is larger than {_MOST // 2**20} MiB")
            file = archive.extractfile(member)
            text = b"" if file is None else file.read()
        data = json.loads(text)
    except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is no support bundle",
            why=error.strerror or str(error) if isinstance(error, OSError) else str(error),
            remedy="ai-how support-bundle -o FILE writes one.",
        ) from error
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(data, dict) or version != VERSION or not isinstance(data.get("parts"), dict):
        raise UsageError(
            f"{path} cannot be judged",
            why=f"it is of version {version}, and this ai-how ({__version__}) understands {VERSION}",
            remedy="Use the ai-how that wrote it, or a newer one.",
        )
    return data


def _to_json(parts: Mapping[Part, Any], missing: Mapping[Part, str]) -> dict[str, Any]:
    return {
        "parts": {part.value: data for part, data in parts.items()},
        "missing": {part.value: why for part, why in missing.items()},
    }


def _capture(data: Mapping[str, Any]) -> Capture:
    known = {part.value: part for part in Part}
    missing = data.get("missing")
    return Capture(
        {known[name]: found for name, found in data["parts"].items() if name in known},
        {
            known[name]: str(why)
            for name, why in (missing if isinstance(missing, dict) else {}).items()
            if name in known
        },
    )


def _members(data: Mapping[str, Any], diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """The files of a bundle: the one that counts, the verdict, and what people want to look at by itself."""
    yield _CAPTURE, json.dumps(data)
    yield "verdict.txt", report.text(diagnosis, findings=True) + "\n"
    yield "verdict.json", json.dumps(diagnosis.to_json(), indent=1, ensure_ascii=False) + "\n"
    parts = data["parts"]
    for kind in (Part.NETWORKS, Part.MACHINES):
        for each in parts.get(kind.value) or ():
            for which in ("live", "saved"):
                if each[which]:
                    yield f"{kind.value}/{_file(each['name'])}.{which}.xml", each[which]
    for name, text in (parts.get(Part.LOGS.value) or {}).items():
        yield f"logs/{_file(name)}", text
    for part in Part:
        if part.value in parts and part not in (Part.NETWORKS, Part.MACHINES, Part.LOGS):
            yield f"host/{part.value}.json", json.dumps(parts[part.value], indent=1, ensure_ascii=False) + "\n"


def _file(name: str) -> str:
    """A name of somebody's as the name of a file."""
    return "".join(each if each.isalnum() or each in "._-" else "_" for each in name).strip("._") or "_"


def _write(path: Path, members: Mapping[str, str]) -> None:
    """All of it or nothing, and for its owner alone. Raises OSError."""
    new = half(path)
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in members.items():
                content = text.encode(errors="replace")
                entry = tarfile.TarInfo(f"{name}")
                entry.size, entry.mode = len(content), 0o600
                archive.addfile(entry, io.BytesIO(content))
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
