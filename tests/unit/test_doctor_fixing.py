"""Repairs that are cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_how.diagnose import fixing
from ai_how.diagnose.causes import Cause
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.errors import Interrupted


def test_interrupted_repair_is_no_failed_one_but_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted("interrupted", why="what this run had made was undone")

    monkeypatch.setattr(fixing, "mend", interrupted)
    cause = Cause(Finding("bridge-down", "n", Answer.FAIL, "down", fix=Fix(automatic=True, mend="c"), network="n"))
    with pytest.raises(Interrupted):
        fixing.repair(fixing.Place("test:///default", tmp_path / "state.json"), cause)
