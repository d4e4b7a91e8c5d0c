"""Repairs that are cut off, or do not help."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from ai_how.diagnose import fixing
from ai_how.diagnose.causes import Cause, Diagnosis
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.diagnose.question import Question
from ai_how.errors import Interrupted


def test_interrupted_repair_is_no_failed_one_but_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted("interrupted", why="what this run had made was undone")

    monkeypatch.setattr(fixing, "mend", interrupted)
    cause = Cause(Finding("bridge-down", "n", Answer.FAIL, "down", fix=Fix(automatic=True, mend="c"), network="n"))
    with pytest.raises(Interrupted):
        fixing.repair(fixing.Place("test:///default", tmp_path / "state.json"), cause)


def test_what_did_not_help_one_is_not_done_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the rules of sixty networks are gone, and libvirt does not make them anew."""
    done = tmp_path / "done"
    fix = Fix((("sh", "-c", f"echo done >> {done}"),), automatic=True)
    findings = tuple(Finding("nat-missing", name, Answer.FAIL, "gone", fix=fix, network=name) for name in "abc")
    now = Diagnosis(Question(), findings, tuple(map(Cause, findings)))
    monkeypatch.setattr(fixing, "examine", lambda *_: now)
    monkeypatch.setattr(fixing, "is_root", lambda: True)
    monkeypatch.setattr(fixing, "shared", lambda *_: nullcontext())
    monkeypatch.setattr(fixing, "SHOWN_WITHIN", 0.0)
    place = fixing.Place("test:///default", tmp_path / "state.json")
    attempts = list(fixing.repair_all(place, (), lambda cause: True))
    assert [(each.cause.subject, each.done) for each in attempts] == [("a", False)]
    assert done.read_text() == "done\n"
