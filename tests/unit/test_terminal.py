"""What is said is whole, whatever comes between."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from ai_how.cli.terminal import note, say


class Pieces(io.StringIO):
    """Remembers what is written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return super().write(text)


@pytest.mark.parametrize(("speak", "stream"), [(say, "stdout"), (note, "stderr")])
def test_ctrl_c_cannot_come_between_a_line_and_its_end(
    speak: Callable[[str], None], stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = Pieces()
    monkeypatch.setattr(sys, stream, pieces)
    speak("undoing 3 steps")
    assert pieces.written == ["undoing 3 steps\n"]
