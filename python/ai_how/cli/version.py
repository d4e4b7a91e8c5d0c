"""What is running: ai-how and Python, and with -v libvirt and QEMU.

No typer here: the plain answer is given before the parser is imported (see `main.py`).
"""

from __future__ import annotations

import sys

from ai_how import __version__
from ai_how.cli.terminal import note, print_json, say
from ai_how.errors import AiHowError


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


def of_the_host(uri: str) -> dict[str, str | None]:
    """Versions of libvirt's library and daemon and of QEMU; None for what is missing or does not answer."""
    from ai_how.host import libvirt

    found: dict[str, str | None] = {"libvirt library": None, "libvirt daemon": None, "qemu": None}
    try:
        found["libvirt library"] = _dotted(libvirt.bindings().getVersion())
        with libvirt.Libvirt(uri) as host:
            with host.doing("cannot ask for libvirt's version"):
                found["libvirt daemon"] = _dotted(host.connection.getLibVersion())
            with host.doing("cannot ask for the hypervisor's version"):
                found["qemu"] = _dotted(host.connection.getVersion())
    except AiHowError as error:
        note(f"{error.what}: {error.why}")
    return found


def _dotted(number: int) -> str:
    """libvirt's version numbers are major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
