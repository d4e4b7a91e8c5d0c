"""Repairs: what a cause's own commands say, or the engine for clusters of ours; then the host is looked at again.

Only what is certain and can be taken back is done (finding.Fix.automatic). What did not help is undone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai_how.diagnose.causes import Cause, Diagnosis
from ai_how.diagnose.doctor import examine
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.engine.cluster import mend
from ai_how.engine.events import Progress, silent
from ai_how.engine.hostwide import renew_libvirts_rules, shared
from ai_how.engine.site import Site
from ai_how.errors import AiHowError, Interrupted, PrivilegeError
from ai_how.host import dnsmasq
from ai_how.host.libvirt import DEFAULT_URI, Libvirt
from ai_how.host.memory import is_root
from ai_how.host.process import output

#: Seconds in which a repair must show: libvirt starts a dnsmasq anew, or its rules, a moment after it was told.
SHOWN_WITHIN = 8.0
_AGAIN = 0.3

#: Seconds after which an answer is to another host than the one that was looked at.
_FRESH = 1.0


#: How a command begins that stands for what the engine does.
_OURSELVES = ("ai-how", "doctor")

#: Check, subject, summary, answer.
_Key = tuple[str, str, str, Answer]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One repair. `done`: the cause is gone. `trouble` says why it is not, and that it was undone; `now` is how the
    host looked last, None where it was not looked at since."""

    cause: Cause
    done: bool
    trouble: str = ""
    now: Diagnosis | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is repaired: libvirt's URI, the state file, and who is told of the progress. libvirt need not answer."""

    uri: str
    state: Path
    progress: Progress = silent

    @contextmanager
    def site(self) -> Iterator[Site]:
        """The same with an open libvirt."""
        with Libvirt(self.uri) as libvirt:
            yield Site(libvirt, self.state, self.progress)


def repair_all(place: Place, words: Sequence[str], agree: Callable[[Cause], bool]) -> Iterator[Attempt]:
    """Repair one cause after another, the first in the chain first, and look again after each.

    A cause is only tried once, and only where `agree` says so; what did not help one is not done for another. Raises
    PrivilegeError where this user may not.
    """
    tried: set[_Key] = set()
    vain: list[Fix] = []
    now: Diagnosis | None = None
    while cause := _next(now or examine(place.uri, words), tried, vain):
        if not is_root():
            raise PrivilegeError(
                "nothing was repaired",
                why=f"{cause.id} of {cause.subject} is repaired on the host itself, which takes root",
                remedy="Run the same as root.",
            )
        tried.add(_key(cause.finding))
        asked = time.monotonic()
        if not agree(cause):
            continue
        if time.monotonic() - asked > _FRESH:
            # Processes may have ended meanwhile, and their numbers be others': what is done is of what is so now.
            now = examine(place.uri, words)
            if (again := _same(now, cause)) is None:
                continue
            cause = again
        attempt = repair(place, cause, words)
        now = attempt.now
        if not attempt.done:
            vain.append(cause.fix)
        yield attempt


def _same(diagnosis: Diagnosis, cause: Cause) -> Cause | None:
    """The same cause as it is found now, if it still has a repair."""
    found = (each for each in diagnosis.causes if _key(each.finding) == _key(cause.finding))
    return next((each for each in found if each.fix.automatic), None)


def _next(diagnosis: Diagnosis, tried: set[_Key], vain: Sequence[Fix]) -> Cause | None:
    fixable = (each for each in diagnosis.causes if each.fix.automatic and each.fix not in vain)
    return next((each for each in fixable if _key(each.finding) not in tried), None)


def _key(finding: Finding) -> _Key:
    """What tells one finding from others, also from those of another interface of the same machine."""
    return finding.check, finding.subject, finding.summary, finding.answer


def repair(place: Place, cause: Cause, words: Sequence[str] = ()) -> Attempt:
    """Repair one cause, and look whether it is gone. The rest of what was wrong may still be there.

    Raises Interrupted.
    """
    fix = cause.fix
    try:
        if fix.rules or fix.mend:
            with place.site() as site:
                if fix.rules:
                    renew_libvirts_rules(site.libvirt, site.progress)
                if fix.mend:
                    mend(site, fix.mend)
        with shared(place.progress):
            for command in fix.commands:
                if command[:2] != _OURSELVES:
                    _carry_out(command, place.uri)
    except Interrupted:
        raise  # what was under way is undone; nothing else is begun
    except AiHowError as error:
        return Attempt(cause, done=False, trouble=_undone(place, cause, str(error)))
    deadline = time.monotonic() + SHOWN_WITHIN
    while _is_there(cause, now := examine(place.uri, words)):
        if time.monotonic() > deadline:
            return Attempt(cause, done=False, trouble=_undone(place, cause, "it is still so"))
        time.sleep(_AGAIN)
    return Attempt(cause, done=True, now=now)


def _is_there(cause: Cause, now: Diagnosis) -> bool:
    """Whether it is still found, be it as a cause or explained by another one."""
    return any(_key(each) == _key(cause.finding) for each in now.findings)


def _undone(place: Place, cause: Cause, why: str) -> str:
    """`why`, after taking back what was done."""
    if not cause.fix.undo:
        return why
    with shared(place.progress):
        for command in cause.fix.undo:
            with contextlib.suppress(AiHowError):  # what was not done needs no undoing
                _carry_out(command, place.uri)
    return f"{why}; what was done was undone"


def _carry_out(command: Sequence[str], uri: str) -> None:
    """The command, for the libvirt that was looked at. Raises CommandFailed."""
    words = list(command)
    stops = words[:2] == ["virsh", "net-destroy"] and uri == DEFAULT_URI
    at = ["-c", uri] if words[0] == "virsh" and uri != DEFAULT_URI else []
    with dnsmasq.until_ended(words[2]) if stops else contextlib.nullcontext():
        output([words[0], *at, *words[1:]], changes_host=True)
