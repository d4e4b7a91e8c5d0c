"""A change that waits for its confirmation: asked about, confirmed, or undone at once (engine/guard.py)."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how.engine.guard import PREFIX, Phase, Word, name_of
from ai_how.engine.state import Undone, read_state
from ai_how.errors import HostError, NotReady, PrivilegeError, Unconfirmed
from ai_how.host import rendezvous

#: Seconds that a guard may take to answer, and to undo the change of a large cluster.
_ANSWERS_WITHIN = 10.0
_UNDONE_WITHIN = 3600.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that is guarded now: `left` seconds until it is undone, `why` it is being undone."""

    uri: str
    cluster: str
    phase: Phase
    left: float
    why: str

    def __str__(self) -> str:
        match self.phase:
            case Phase.APPLYING:
                return "up is still at work on it"
            case Phase.WAITING:
                return f"it is undone in {self.left:.0f} s unless it is confirmed"
            case Phase.UNDOING:
                return f"it is being undone: {self.why}"


def pending(uri: str, cluster: str) -> Pending | None:
    """The change of `cluster` that is guarded now; None where there is none."""
    return _ask(name_of(uri, cluster))


def all_pending(uri: str) -> list[Pending]:
    """All changes at the libvirt `uri` that are guarded now; who has such a name and does not answer is passed over."""
    found = []
    for name in rendezvous.names(PREFIX):
        with suppress(HostError):
            found.append(_ask(name))
    return sorted((each for each in found if each is not None and each.uri == uri), key=lambda each: each.cluster)


def refuse_unconfirmed(uri: str, cluster: str) -> None:
    """Raise Unconfirmed where a change of `cluster` waits for its confirmation."""
    if (found := pending(uri, cluster)) is not None:
        raise Unconfirmed(
            f"cluster {cluster} has a change that is not confirmed",
            why=str(found),
            remedy=f"Keep it: ai-how confirm {cluster}\nUndo it now: ai-how confirm {cluster} --undo",
        )


def confirm(uri: str, cluster: str, state: Path) -> None:
    """Keep the change of `cluster` that is guarded now. Raises NotReady where there is none, or no longer."""
    with _met(uri, cluster, state) as (guard, found):
        if found.phase is Phase.UNDOING:
            raise NotReady(f"the change of {cluster} can no longer be confirmed", why=str(found))
        _tell(guard, found, Word.CONFIRM)


def undo(uri: str, cluster: str, state: Path) -> Undone:
    """Undo the change of `cluster` that is guarded now, and wait for the end of that.

    Raises NotReady where there is none, HostError where it cannot be undone.
    """
    with _met(uri, cluster, state) as (guard, found):
        guard.settimeout(_UNDONE_WITHIN)
        answer = _tell(guard, found, Word.UNDO)
    undone = Undone(*(_text(answer.get(each, "")) for each in ("when", "why", "trouble")))
    if undone.trouble:
        raise HostError(
            f"the change of {cluster} is not undone",
            why=undone.trouble,
            remedy="Bring the cluster up from the configuration that you want: ai-how up.",
        )
    return undone


@contextmanager
def _met(uri: str, cluster: str, state: Path) -> Iterator[tuple[socket.socket, Pending]]:
    """The guard of the change of `cluster`, and how far that is."""
    guard = rendezvous.meet(name_of(uri, cluster), within=_ANSWERS_WITHIN)
    if guard is None:
        raise _nothing_waits(uri, cluster, state)
    with guard:
        found = _hear(guard)
        if found is None:
            raise _nothing_waits(uri, cluster, state)
        user = rendezvous.owner(guard)
        if os.geteuid() not in (0, user):
            raise PrivilegeError(
                f"the change of {cluster} is not yours to decide on",
                why=f"{_name_of_user(user)} made it",
                remedy="Ask them, or run the same as root.",
            )
        if found.phase is Phase.APPLYING:
            raise NotReady(f"the change of {cluster} cannot be decided on yet", why=str(found))
        yield guard, found


def _tell(guard: socket.socket, found: Pending, word: Word) -> dict[str, Any]:
    try:
        rendezvous.say(guard, word)
        answer = rendezvous.hear(guard)
    except (OSError, ValueError) as error:
        raise _gone(found.cluster, str(error)) from error
    if not isinstance(answer, dict):
        raise _gone(found.cluster, "it ended without an answer")
    if answer.get("done") != word:
        raise NotReady(
            f"the change of {found.cluster} can no longer be confirmed",
            why=f"it was undone: {_text(answer.get('why'))}",
        )
    return answer


def _gone(cluster: str, why: str) -> HostError:
    return HostError(
        f"the guard of the change of {cluster} does not answer",
        why=why,
        remedy=f"Look at what is there: ai-how status {cluster}",
    )


def _nothing_waits(uri: str, cluster: str, state: Path) -> NotReady:
    what = f"no change of cluster {cluster} waits for a confirmation"
    record = read_state(state).get(cluster)
    if record is None or record.uri != uri or record.undone is None:
        return NotReady(what)
    undone = record.undone
    why = f"the last one was undone at {undone.when}: {undone.why}"
    if undone.trouble:
        why = f"the last one ({undone.why}) could not be undone at {undone.when}: {undone.trouble}"
    return NotReady(what, why=why, remedy=f"Look at what is there: ai-how status {cluster}")


def _ask(name: str) -> Pending | None:
    connection = rendezvous.meet(name, within=_ANSWERS_WITHIN)
    if connection is None:
        return None
    with connection:
        return _hear(connection)


def _hear(connection: socket.socket) -> Pending | None:
    """What a guard says of its change; None where it ended first."""
    try:
        if (data := rendezvous.hear(connection)) is None:
            return None
        phase = Phase(data["phase"])
        return Pending(_text(data["uri"]), _text(data["cluster"]), phase, float(data["left"]), _text(data["why"]))
    except ConnectionResetError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        user = _name_of_user(rendezvous.owner(connection))
        raise HostError(
            "the guard of a change does not answer",
            why=f"{error}; the process that has its name is one of {user}",
            remedy="Find it with: ss -xlp | grep ai-how/guard",
        ) from error


def _text(value: object) -> str:
    """What a guard says, for a terminal: whoever has its name, of whatever user, may say anything."""
    return "".join(each for each in str(value) if each == "\n" or each.isprintable())


def _name_of_user(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
