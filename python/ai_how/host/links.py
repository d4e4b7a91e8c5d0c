"""The door to links and the bridges they are ports of: asked of sysfs, set by iproute2."""

from __future__ import annotations

from pathlib import Path

from ai_how.host.process import output

_LINKS = Path("/sys/class/net")


def bridge_of(link: str) -> str:
    """The bridge that `link` is a port of; empty where it is none's, or is not there."""
    try:
        return (_LINKS / link / "master").readlink().name
    except OSError:  # no such link, or none that it belongs to
        return ""


def attach(link: str, bridge: str, *, mtu: int) -> None:
    """Make `link` a port of `bridge`, whatever it was before, with frames of up to `mtu` bytes. Raises CommandFailed.

    The change takes CAP_NET_ADMIN.
    """
    # A bridge without an MTU of its own takes the least of its ports': it comes first.
    output(
        ["ip", "link", "set", "dev", link, "mtu", str(mtu), "master", bridge],
        remedy="Install it: apt-get install iproute2",
    )
