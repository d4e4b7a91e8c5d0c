"""The state file: a journal of what is under way, and a memory of which clusters were brought up from where.

The host is the truth. Losing this file loses nothing that `up` and `destroy` cannot find again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_how.errors import StateError
from ai_how.host.files import half, locked, refuse_special, write_atomically
from ai_how.plan.plan import Plan

VERSION = 1


@dataclass(frozen=True, slots=True)
class Run:
    """Work that was begun: the verb, when (ISO 8601, UTC), and every step it set out to take."""

    verb: str
    started: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Undone:
    """A change that was undone because it was not confirmed: when (ISO 8601, UTC), and why.

    `trouble` is what stood against it, empty where all of it was undone.
    """

    when: str
    why: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a cluster. `run` is None unless work on it was cut off; `undone` is what became of its last
    change, where that was undone by itself."""

    name: str
    uri: str
    run: Run | None = None
    undone: Undone | None = None


@dataclass(slots=True)
class State:
    """The open state file; every change is on disk before the call returns."""

    path: Path
    clusters: dict[str, Record] = field(default_factory=dict)

    def begin(self, cluster: str, uri: str, verb: str, plan: Plan) -> None:
        """Record all steps of `plan` before the first of them is taken."""
        run = Run(verb, now(), tuple(str(step) for step in plan.steps))
        self.clusters[cluster] = Record(cluster, uri, run)
        self._write()

    def finish(self, cluster: str) -> None:
        """The run ended: done, or undone."""
        record = self.clusters.get(cluster)
        if record is not None and record.run is not None:
            self.clusters[cluster] = replace(record, run=None)
            self._write()

    def remember(self, cluster: str, uri: str) -> None:
        """The cluster is there."""
        if cluster not in self.clusters:
            self.clusters[cluster] = Record(cluster, uri)
            self._write()

    def note_undone(self, cluster: str, uri: str, undone: Undone) -> None:
        """Its last change was undone; the next run forgets that."""
        record = self.clusters.get(cluster, Record(cluster, uri))
        self.clusters[cluster] = replace(record, undone=undone)
        self._write()

    def forget(self, cluster: str) -> None:
        """The cluster is gone; with the last one the file goes too."""
        if self.clusters.pop(cluster, None) is not None:
            self._write()

    def _write(self) -> None:
        document = {"version": VERSION, "clusters": {name: asdict(each) for name, each in self.clusters.items()}}
        try:
            if self.clusters:
                write_atomically(self.path, json.dumps(document, indent=2) + "\n")
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(
                f"the state file {self.path} cannot be written",
                why=error.strerror or str(error),
                remedy="Choose another place for it: --state PATH or AI_HOW_STATE.",
            ) from error


class Unwritten(State):
    """The state of those who must do their work even where no file can be written."""

    __slots__ = ()

    def _write(self) -> None:
        return


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """The state at `path`, held against other processes until the block ends.

    Raises InUse where one of them has it, StateError where it cannot be used.
    """
    place = _place(path)
    with locked(place.with_name(place.name + ".lock")):
        with suppress(OSError):  # the next write says what is wrong
            half(place).unlink(missing_ok=True)
        yield State(place, read_state(place))


def read_state(path: Path) -> dict[str, Record]:
    """The clusters that the file at `path` remembers; none where there is no file. Raises StateError."""
    try:
        text = _place(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, str(error)) from error
    try:
        document = json.loads(text)
        version = document["version"]
        if isinstance(version, int) and version > VERSION:
            raise StateError(
                f"the state file {path} is of version {version}",
                why=f"this ai-how understands versions up to {VERSION}; a newer one wrote it",
                remedy="Use the newer ai-how, or another --state.",
            )
        return {name: _record(entry) for name, entry in document["clusters"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error


def _place(path: Path) -> Path:
    """Where the state file is: what a link leads to, since replacing the link would leave its other users behind."""
    try:
        place = path.resolve() if path.is_symlink() else path
        refuse_special(place)
    except (OSError, RuntimeError) as error:  # the latter: a link to itself
        why = getattr(error, "strerror", None) or str(error)
        raise StateError(
            f"the state file cannot be {path}", why=why, remedy="Name a file of your own: --state PATH or AI_HOW_STATE."
        ) from error
    return place


def now() -> str:
    """The time, as it stands in the file."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _record(entry: dict[str, Any]) -> Record:
    run, undone = entry["run"], entry.get("undone")  # the latter came later
    return Record(
        name=str(entry["name"]),
        uri=str(entry["uri"]),
        run=None if run is None else Run(run["verb"], run["started"], tuple(run["steps"])),
        undone=None if undone is None else Undone(undone["when"], undone["why"], undone["trouble"]),
    )


def _unusable(path: Path, why: str) -> StateError:
    return StateError(
        f"the state file {path} cannot be read",
        why=why,
        remedy=f"Move it away (mv {path} {path}.bad): the host itself tells what is there, so nothing is lost.",
    )
