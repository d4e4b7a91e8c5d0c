"""What is running: ai-how and Python, and with -v libvirt and QEMU.

No typer here: the plain answer is given before the parser is imported (see `main.py`).
"""

from __future__ import annotations

import sys

from ai_how import __version__
from ai_how.cli.terminal import print_json, say


def show(*, as_json: bool, more: dict[str, str | None] | None = None) -> None:
    """Print the versions; `more` are those that cost a look at the host, None for what did not answer."""
    versions: dict[str, str | None] = {
        "ai-how": __version__,
        "python": ".".join(str(number) for number in sys.version_info[:3]),
        **(more or {}),
    }
    if as_json:
        print_json(versions)
        return
    for name, version in versions.items():
        say(f"{name} {version or '-'}")
