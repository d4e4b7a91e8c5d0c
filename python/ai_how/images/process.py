"""Runs the programs that build an image. Beside host/process.py because they read and write bytes, in a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ai_how.errors import CommandFailed


def run(argv: Sequence[str], *, cwd: Path | None = None, data: bytes = b"", seconds: float = 300) -> bytes:
    """Standard output of `argv`, in the C locale. Raises CommandFailed with the program's own words."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(argv), cwd=cwd, input=data, capture_output=True, timeout=seconds, env=environment, check=False
        )
    except OSError as error:
        raise CommandFailed(argv, None, str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, None, f"no answer within {seconds:g} s") from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout
