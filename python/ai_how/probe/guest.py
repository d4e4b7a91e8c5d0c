"""A machine that runs, as a place to ask from: by its guest agent, with the programs that it has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from ai_how.errors import AiHowError
from ai_how.host import agent
from ai_how.host.libvirt import Libvirt
from ai_how.probe.packets import Answer, NotTested

#: Seconds that a command inside may take; emulated guests are slow.
_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Guest:
    """A running machine whose agent answers."""

    libvirt: Libvirt
    name: str

    def ping(self, target: str) -> Answer:
        """Whether an address answers the guest, or a name as the guest resolves it. Raises NotTested."""
        begin = time.monotonic()
        try:
            ran = agent.run(self.libvirt, self.name, ["ping", "-c", "1", "-W", "2", target], _WITHIN)
        except AiHowError as error:
            raise NotTested(f"{self.name} cannot ping {target}", why=error.why or error.what) from error
        if ran.code == 127:
            raise NotTested(f"{self.name} cannot ping {target}", why="it has no ping")
        ms = (time.monotonic() - begin) * 1000
        said = (ran.stdout + ran.stderr).strip().splitlines()
        return Answer(
            ran.code == 0, "reply" if ran.code == 0 else said[-1] if said else f"ping ended with {ran.code}", ms
        )

    def has(self, ip: IPv4Address, mac: str) -> Answer:
        """Whether its card has the address. Raises NotTested."""
        begin = time.monotonic()
        try:
            links = agent.links(self.libvirt, self.name)
        except AiHowError as error:
            raise NotTested(f"{self.name} cannot be asked for its addresses", why=error.why) from error
        found = [str(each.ip) for link in links if link.mac == mac for each in link.addresses if each.version == 4]
        said = f"it has {', '.join(found) or 'no address'}"
        return Answer(str(ip) in found, said, (time.monotonic() - begin) * 1000)


def find_guest(libvirt: Libvirt, name: str) -> Guest | None:
    """The machine, if its agent answers at once."""
    try:
        return Guest(libvirt, name) if agent.answers(libvirt, name, within=1) else None
    except AiHowError:
        return None
