"""The entry: `ai-how` and `python -m ai_how`. Every way out of the program is here, with its exit code.

0 fine, 1 the answer is no, 2 wrong use or configuration, 3 the host or libvirt failed (or a bug), 4 privileges
missing, 130 interrupted, 141 the reader of our output went away.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import shlex
import sys
from collections.abc import Sequence

from ai_how.errors import AiHowError, HostError, Interrupted, RootNeeded

BUG = 3
BROKEN_PIPE = 141

#: What writing the answer may end with that is no bug of ours.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}


def main() -> None:
    """Run the command line of this process and exit."""
    # A tenth of a short life would go into looking for cycles of garbage, which it ends too soon to need back.
    gc.disable()
    _prepare_streams()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
        _silence_stdout()
    except OSError as error:
        _silence_stdout()
        code = _failed(
            HostError("the answer cannot be written", why=error.strerror or str(error), remedy="look at where it goes"),
            [],
        )
    # Python's end would look for cycles once more, even so: a second where emulated guests keep the CPUs busy.
    gc.freeze()
    sys.exit(code)


def _prepare_streams() -> None:
    """Streams that we were started without swallow what we say; characters that a terminal lacks are spelt out."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for the whole process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Python flushes stdout once more at its end; that must not complain a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(words: Sequence[str]) -> int:
    """Carry out one command line; the exit code."""
    if set(words) in ({"version"}, {"version", "--json"}, {"--version"}):
        from ai_how.cli import version

        # The parser takes three times as long to import as this answer takes.
        version.show(as_json="--json" in words)
        return 0
    try:
        from ai_how.cli import app

        return app.run(words)
    except KeyboardInterrupt:
        return _failed(Interrupted("interrupted"), words)
    except AiHowError as error:
        return _failed(error, words)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise
        return _bug(error, words)
    except Exception as error:  # noqa: BLE001 - the last door: whatever comes here is a bug, and is shown as one
        return _bug(error, words)


def _failed(error: AiHowError, words: Sequence[str]) -> int:
    from ai_how.cli.terminal import show_error

    if isinstance(error, RootNeeded):
        error.remedy = f"{as_root(sys.argv[0], words)}\n{error.remedy}"
    show_error(error, as_json="--json" in _own(words))
    return error.exit_code


def as_root(program: str, words: Sequence[str]) -> str:
    """The same command line for root, whose PATH need not have us."""
    own = [sys.executable, "-m", "ai_how"] if program.endswith(".py") else [os.path.abspath(program)]  # noqa: PTH100
    return shlex.join(["sudo", *own, *words])


def _bug(error: Exception, words: Sequence[str]) -> int:
    import traceback

    from ai_how import __version__

    if os.environ.get("AI_HOW_DEBUG") or "-vv" in _own(words):
        traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
    _failed(
        AiHowError(
            "this is a bug in ai-how",
            why=f"{type(error).__name__}: {error} (at {where}, version {__version__})",
            remedy="run it again with AI_HOW_DEBUG=1 and report what it prints, with the command line",
        ),
        words,
    )
    return BUG


def _own(words: Sequence[str]) -> Sequence[str]:
    """The words that are for us, and not for a program named after `--`."""
    return words[: words.index("--")] if "--" in words else words
