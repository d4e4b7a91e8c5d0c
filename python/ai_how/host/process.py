"""The door to other programs: argument lists only, their standard error never lost."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from ai_how.errors import CommandFailed
from ai_how.host import lock


def output(
    argv: Sequence[str], *, text: str = "", timeout: float = 30.0, remedy: str = "", changes_host: bool = False
) -> str:
    """What `argv` prints, given `text` to read. Raises CommandFailed when it cannot start, fails, or takes longer than
    `timeout` seconds.

    What `changes_host` holds the host's lock, where we do, until its own end: it goes on where we are killed.
    """
    try:
        ran = subprocess.run(
            list(argv),
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            pass_fds=lock.passed_on() if changes_host else (),
        )
    except OSError as error:
        raise CommandFailed(argv, None, str(error), remedy=remedy) from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, None, f"no end after {timeout:g} s", remedy=remedy) from error
    if ran.returncode != 0:
        raise CommandFailed(argv, ran.returncode, ran.stderr, remedy=remedy)
    return ran.stdout
