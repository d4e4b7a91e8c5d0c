"""What tests in a lab share. They run inside one, with the pretend internet: see tests/conftest.py."""

from __future__ import annotations

import os

import pytest

from ai_how import lab


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if lab.inside():
        return
    problem = lab.unavailable()
    reason = f"not in a lab: {problem or 'the pytest run was not moved into one'}"
    if "lab" in os.environ.get("AI_HOW_REQUIRE", "").replace(",", " ").split():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
