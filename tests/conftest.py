"""Moves a pytest run that includes tests/lab into a lab, once, as a whole.

Where no lab can be opened the tests in tests/lab skip with the reason, or fail if AI_HOW_REQUIRE names `lab`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.fetched import CONSUL, FIREWALLD, LIBVIRT, RESOLVERS, NotFetched, fetched

from ai_how import lab
from ai_how.images import build_micro_image

_LAB_TESTS = Path(__file__).parent / "lab"

# In a shell's background SIGINT is ignored, under nohup SIGHUP, and everything below inherits that; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine takes its time for an example, too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run this very pytest command inside a lab instead, if it needs one and there can be one."""
    if lab.inside() or config.option.collectonly or config.option.help or config.option.version:
        return None
    if not _includes_lab_tests(config) or lab.unavailable() is not None:
        return None
    _fill_the_caches()
    arguments = [str(argument) for argument in config.invocation_params.args]
    return lab.run([sys.executable, "-m", "pytest", *arguments], internet=True)


def _fill_the_caches() -> None:
    """Debian's packages, which the micro image is made of and tests run, cannot be fetched from inside a lab."""
    with tempfile.TemporaryDirectory() as folder:
        build_micro_image(Path(folder) / "micro.qcow2")
    with contextlib.suppress(NotFetched):  # the tests that need them ask again, and fail with the reason
        fetched(RESOLVERS)
        fetched(CONSUL, suite="bullseye")
        fetched(LIBVIRT, suite="bookworm-backports")
        fetched(FIREWALLD)


def _includes_lab_tests(config: pytest.Config) -> bool:
    for argument in config.args:
        path = (config.invocation_params.dir / argument.split("::")[0]).resolve()
        if path.is_relative_to(_LAB_TESTS) or _LAB_TESTS.is_relative_to(path):
            return True
    return False
