"""What machines say of themselves, by their guest agents: addresses, routes, DNS servers."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from ai_how.diagnose.ask.libvirt import Asked
from ai_how.errors import AiHowError

#: Seconds that an agent may take for one answer, and for all of them: less than all questions together may.
PATIENCE, WITHIN = 4, 8.0

#: Between two looks whether a command has ended, in s.
_AGAIN = 0.03


def ask_guest(libvirt: Asked, machine: str) -> dict[str, Any]:
    """`links` as the agent of the machine of this UUID has them, and the text of its /proc/net/route and
    /etc/resolv.conf, None where it may not run a command. `why` it does not answer, where it does not."""
    deadline = time.monotonic() + WITHIN

    def say(order: str, **arguments: Any) -> Any:
        left = int(deadline - time.monotonic())
        if left < 1:
            raise AiHowError("its guest agent is too slow", why=f"no end after {WITHIN:g} s")
        return libvirt.agent(machine, order, arguments, min(PATIENCE, left))

    try:
        interfaces = say("guest-network-get-interfaces")
    except AiHowError as error:
        return {"answers": False, "why": error.why or error.what}
    try:
        inside = _run(say, "cat", "/proc/net/route", "/etc/resolv.conf")
    except AiHowError:
        inside = None  # its owner allows no commands: what it does not say is not judged
    return {"answers": True, "links": interfaces, "inside": inside}


def _run(say: Callable[..., Any], *argv: str) -> str:
    """What a command inside prints. Raises AiHowError."""
    pid = say("guest-exec", **{"path": argv[0], "arg": list(argv[1:]), "capture-output": True})["pid"]
    while not (status := say("guest-exec-status", pid=pid))["exited"]:
        time.sleep(_AGAIN)
    return base64.b64decode(status.get("out-data", "")).decode(errors="replace")
