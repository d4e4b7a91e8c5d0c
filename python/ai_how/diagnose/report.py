"""The verdict for people: the cause first, what it explains, how it is repaired, and what else was seen."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ai_how.diagnose.catalogue import CATALOGUE
from ai_how.diagnose.causes import Cause, Diagnosis
from ai_how.diagnose.finding import Answer, Finding, Fix

#: Paints a text in a colour by its name; plain where nobody wants colours.
Paint = Callable[[str, str], str]

_COLOURS = {Answer.OK: "green", Answer.WARN: "yellow", Answer.FAIL: "red", Answer.UNKNOWN: "cyan"}


def plain(text: str, _colour: str) -> str:
    """Without colours."""
    return text


def text(diagnosis: Diagnosis, *, findings: bool, paint: Paint = plain) -> str:
    """The whole answer; with `findings` what is well, too."""
    diagnosis = _printable(diagnosis)
    lines = [*_verdict(diagnosis, paint)]
    for number, cause in enumerate(diagnosis.causes, 1):
        lines += ["", *_cause(cause, number if len(diagnosis.causes) > 1 else 0, paint)]
    unexplained = list(_unseen(diagnosis.unseen, paint))
    lines += ["", *unexplained] if unexplained else []
    lines += ["", *diagnosis.notes] if diagnosis.notes else []
    if findings:
        lines += ["", *(line for each in _ordered(diagnosis.findings) for line in _finding(each, paint))]
    return "\n".join(lines)


def _printable(diagnosis: Diagnosis) -> Diagnosis:
    """The same for a terminal: guests and bundles of others may say what would move its cursor, or worse."""
    return replace(
        diagnosis,
        findings=tuple(map(_shown, diagnosis.findings)),
        causes=tuple(
            replace(each, finding=_shown(each.finding), explains=tuple(map(_shown, each.explains)))
            for each in diagnosis.causes
        ),
    )


def _shown(finding: Finding) -> Finding:
    fix = finding.fix
    return replace(
        finding,
        subject=_clean(finding.subject),
        summary=_clean(finding.summary),
        evidence=tuple(map(_clean, finding.evidence)),
        fix=replace(fix, advice=_clean(fix.advice), commands=tuple(tuple(map(_clean, each)) for each in fix.commands)),
    )


def _clean(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


def _verdict(diagnosis: Diagnosis, paint: Paint) -> Iterator[str]:
    about = "" if str(diagnosis.question) == "everything" else f"{diagnosis.question}: "
    well = sum(each.answer is Answer.OK for each in diagnosis.findings)
    match diagnosis.causes:
        case () if diagnosis.unseen:
            yield f"{about}{paint('nothing wrong was found', 'yellow')}, and not everything could be looked at"
        case ():
            yield f"{about}{paint('healthy', 'green')} ({well} things looked at are well)"
        case (one,):
            yield f"{about}{paint('one cause', 'red')}: {CATALOGUE[one.id].title}"
        case several:
            yield f"{about}{paint(f'{len(several)} independent causes', 'red')}; begin with the first"


def _cause(cause: Cause, number: int, paint: Paint) -> Iterator[str]:
    finding = cause.finding
    place = f"{number}. " if number else ""
    yield f"{place}{paint(cause.id, _COLOURS[finding.answer])} of {paint(cause.subject, 'bold')}: {finding.summary}"
    yield from (f"     {line}" for line in finding.evidence)
    if cause.explains:
        yield "   explains"
        yield from (f"     {each.check} of {each.subject}: {each.summary}" for each in cause.explains)
    yield from fix_lines(finding.fix, paint)
    yield f"   more: docs/doctor/{cause.id}.md"


def fix_lines(fix: Fix, paint: Paint) -> Iterator[str]:
    """How something is repaired: what people decide, and the exact commands."""
    if not fix.commands and not fix.advice:
        return
    yield f"   repair{' (ai-how doctor --fix does it)' if fix.automatic and not (fix.mend or fix.rules) else ''}"
    if fix.advice:
        yield f"     {fix.advice}"
    yield from (f"     {paint(shlex.join(each), 'cyan')}" for each in fix.commands)


def _unseen(found: Iterable[Finding], paint: Paint) -> Iterator[str]:
    """What could not be looked at, by the reason: one missing thing blinds many checks."""
    reasons: dict[str, list[str]] = {}
    for each in found:
        why = "; ".join(each.evidence) if each.evidence else f"{each.subject}: {each.summary}"
        reasons.setdefault(why, []).append(each.check)
    for why, checks in reasons.items():
        yield f"{paint('not looked at', 'cyan')}: {', '.join(dict.fromkeys(checks))}"
        yield f"     {why}"


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    order = list(CATALOGUE)
    return sorted(findings, key=lambda each: (CATALOGUE[each.check].layer, order.index(each.check), each.subject))


def _finding(finding: Finding, paint: Paint) -> Iterator[str]:
    if finding.answer is Answer.UNKNOWN and finding.evidence:
        return  # told above, by its reason
    yield f"{paint(f'{finding.answer.value:<7}', _COLOURS[finding.answer])}  {finding.subject}: {finding.summary}"
    yield from (f"{'':9}  {line}" for line in finding.evidence)
