"""What was written lately by those who make networks and machines; for a bundle only."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ai_how.diagnose.ask.libvirt import SEARCH
from ai_how.errors import AiHowError
from ai_how.host.process import output

#: Bytes of the end of each file, lines of the journal.
_TAIL, _LINES = 64 * 1024, 300

_FILES = ("/var/log/libvirt/libvirtd.log", "/var/log/libvirt/virtnetworkd.log", "/run/ai-how-hook.log")
_QEMU = Path("/var/log/libvirt/qemu")
_UNITS = ("libvirtd", "virtqemud", "virtnetworkd", "dnsmasq", "systemd-resolved", "firewalld", "docker")


def logs() -> dict[str, str]:
    """By what they are of: the ends of libvirt's logs, of machines', of our hook's, and of the journal."""
    found = {}
    for path in (*map(Path, _FILES), *_machines()):
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            found[str(path)] = file.read().decode(errors="replace")
    journal = shutil.which("journalctl", path=SEARCH)
    if journal and Path("/run/systemd/system").is_dir():
        for unit in _UNITS:
            with contextlib.suppress(AiHowError):
                text = output([journal, "--no-pager", "-q", "-n", str(_LINES), "-u", unit], timeout=5)
                if text:
                    found[f"journal {unit}"] = text
    return found


def _machines() -> list[Path]:
    try:
        return sorted(_QEMU.glob("*.log"))
    except OSError:
        return []
