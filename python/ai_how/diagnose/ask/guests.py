"""What machines say of themselves, by their guest agents: addresses, routes, DNS servers."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from ai_how.diagnose.ask.libvirt import Asked
from ai_how.errors import AiHowError

#: Seconds that an agent may take for one answer, and for all of them.
PATIENCE, WITHIN = 4, 8.0

#: Between two looks whether a command has ended, in s.
_AGAIN = 0.03


def ask_guest(libvirt: Asked, machine: str) -> dict[str, Any]:
    """`links` as the agent of the machine of this UUID has them, and the text of its /proc/net/route and
    /etc/resolv.conf, None where it may not run a command. `why` it does not answer, where it does not."""
    try:
        interfaces = libvirt.agent(machine, "guest-network-get-interfaces", {}, PATIENCE)
    except AiHowError as error:
        return {"answers": False, "why": error.why or error.what}
    try:
        inside = _run(libvirt, machine, "cat", "/proc/net/route", "/etc/resolv.conf")
    except AiHowError:
        inside = None  # its owner allows no commands: what it does not say is not judged
    return {"answers": True, "links": interfaces, "inside": inside}


def _run(libvirt: Asked, machine: str, *argv: str) -> str:
    """What a command inside prints. Raises AiHowError."""
    order: Mapping[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    pid = libvirt.agent(machine, "guest-exec", order, PATIENCE)["pid"]
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        status = libvirt.agent(machine, "guest-exec-status", {"pid": pid}, PATIENCE)
        if status["exited"]:
            return base64.b64decode(status.get("out-data", "")).decode(errors="replace")
        time.sleep(_AGAIN)
    raise AiHowError(f"{argv[0]} inside does not end", why=f"it has run for {WITHIN:g} s")
