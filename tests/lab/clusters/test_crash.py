"""A sample of what `scripts/crash` tries as a whole: ai-how is killed, `up` completes, `destroy` leaves nothing.

The points are the same ones in every run. A failure is tried again with the command that it names.
"""

from __future__ import annotations

import time

import pytest
from tests.crash.__main__ import FAST, table
from tests.crash.run import Wanted, attempt

from ai_how.spec.network import DnsMode


def test_killed_at_any_point_of_a_sample_up_completes_and_destroy_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin = time.monotonic()
    wanted = [Wanted(mode, size=FAST, alternate=True) for mode in DnsMode]
    results = attempt(wanted, lambda *_: None, jobs=2)
    with capsys.disabled():
        print("\n" + table(results, time.monotonic() - begin))
    for result in results:
        assert result.broken == ""
        assert [(each.point, each.wrong) for each in result.failed] == []
        assert all(tried >= FAST for tried, _, _ in result.counts().values()), result.counts()
