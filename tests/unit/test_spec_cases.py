"""Golden cases: tests/cases/<name>/config.yaml resolves to exactly tests/cases/<name>/spec.json.

`AI_HOW_REGENERATE=1 pytest tests/unit/test_spec_cases.py` writes the expected files anew; read the difference before
committing it.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from ai_how.config.load import load_file
from ai_how.spec.resolve import resolve_all

CASES = Path(__file__).parents[1] / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/config.yaml"))


def as_json(value: Any) -> Any:
    """A spec as JSON: dataclasses as objects, addresses and paths as text."""
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def test_there_are_cases() -> None:
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_case_resolves_to_its_spec(name: str) -> None:
    clusters = resolve_all(load_file(CASES / name / "config.yaml"))
    expected = CASES / name / "spec.json"
    text = json.dumps([as_json(cluster) for cluster in clusters], indent=2) + "\n"
    if os.environ.get("AI_HOW_REGENERATE"):
        expected.write_text(text)
    assert text == expected.read_text()
