"""Kernel settings of a host. What was there before is remembered, and restored."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ai_how.host import memory, sysctl
from ai_how.host.libvirt import Libvirt
from ai_how.providers import network as networks
from ai_how.resources.network import Forward, VirtualNetwork
from ai_how.resources.sysctl import FORWARDING, Sysctl

_MEMORY = "sysctl.json"
#: The same for the hook, which is a shell script: `PATH VALUE`, one a line (compile/hook.py).
_FOR_THE_HOOK = "sysctl.settings"

#: Steps run side by side, and both files hold all settings.
_ONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What a setting was before ours, empty where there was none, and what ours is."""

    before: str
    wanted: str


def observe(libvirt: Libvirt, cluster: str) -> list[Sysctl]:
    """Those that we set, at their present value."""
    known = _recall()
    lasting = not known or memory.recall_text(_FOR_THE_HOOK) == _settings(known)
    return [Sysctl(name, sysctl.read(name), lasting) for name in sorted(known)]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """None: a setting is everybody's, and goes back to what it was."""
    return {}


def create(libvirt: Libvirt, want: Sysctl) -> None:
    """Remember what it is, unless that is remembered already, then set it."""
    with _ONE:
        known = _recall()
        before = known[want.name].before if want.name in known else sysctl.read(want.name)
        _remember({**known, want.name: _Remembered(before, want.value)})
    sysctl.write(want.name, want.value)


def change(libvirt: Libvirt, have: Sysctl, want: Sysctl) -> None:
    """Set it to another value; what it was before the first one stays remembered."""
    create(libvirt, want)


def remove(libvirt: Libvirt, have: Sysctl) -> None:
    """Restore what was there before, unless somebody else has come to need ours."""
    with _ONE:
        known = _recall()
        if (remembered := known.pop(have.name, None)) is None:
            return
        kept = have.name == FORWARDING and _somebody_forwards(networks.observe_all(libvirt))
        if remembered.before and not kept:
            sysctl.write(have.name, remembered.before)
        _remember(known)


def _somebody_forwards(every: Collection[VirtualNetwork]) -> bool:
    """Whether a network that does without our settings needs forwarding: libvirt switches it on at its start, and never
    again."""
    return any(
        each.active and each.forward is not Forward.NONE and not (each.cluster and each.policy.firewall.enabled)
        for each in every
    )


def _recall() -> dict[str, _Remembered]:
    """What is remembered; what cannot be read was written by nobody of us, and is made anew by the next `up`."""
    try:
        said = (memory.recall(_MEMORY) or {}).items()
        return {name: _Remembered(str(each["before"]), str(each["wanted"])) for name, each in said}
    except (TypeError, KeyError, AttributeError):
        return {}


def _settings(known: Mapping[str, _Remembered]) -> str:
    return "".join(f"{sysctl.path_of(name)} {each.wanted}\n" for name, each in sorted(known.items()))


def _remember(known: Mapping[str, _Remembered]) -> None:
    content = {name: {"before": each.before, "wanted": each.wanted} for name, each in known.items()}
    memory.keep(_MEMORY, content, beside=_FOR_THE_HOOK, text=_settings(known))
