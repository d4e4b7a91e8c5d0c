"""What a host must offer before a lab can be opened there."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from ai_how.errors import AiHowError, HostError, PrivilegeError, UsageError
from ai_how.lab.spec import LabSpec

#: Administration tools, which are not on everybody's PATH.
_ADMINISTRATION = ("/usr/sbin", "/sbin")
#: Program → Debian package. Elsewhere the packages are called alike.
_PACKAGES = {
    "libvirtd": "libvirt-daemon-system",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "unshare": "util-linux",
}
_NAMESPACES = ("net", "mnt", "pid", "ipc", "uts")


def search_path() -> str:
    """PATH with the administration directories in it."""
    given = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*given, *(entry for entry in _ADMINISTRATION if entry not in given)])


def unavailable(spec: LabSpec | None = None) -> AiHowError | None:
    """Why no lab can be opened here, as the error to raise; None where one can."""
    spec = spec or LabSpec()
    if os.geteuid() != 0:
        return PrivilegeError(
            "a lab needs root",
            why="it makes its own namespaces, mounts and libvirtd",
            remedy=f"run: sudo {shlex.join([sys.executable, *sys.orig_argv[1:]])}",
        )
    kernel = [name for name in _NAMESPACES if not Path(f"/proc/self/ns/{name}").exists()]
    if kernel:
        return HostError(
            "a lab cannot be opened on this kernel",
            why=f"it has no {', '.join(kernel)} namespaces",
            remedy="use a kernel with CONFIG_NAMESPACES, and /proc mounted",
        )
    return _unusable_root(spec.libvirt_root) or _missing_programs(spec)


def _unusable_root(root: Path | None) -> AiHowError | None:
    if root is None or (root / "usr/sbin/libvirtd").is_file():
        return None
    return UsageError(
        f"{root} holds no libvirt",
        why=f"there is no {root / 'usr/sbin/libvirtd'}",
        remedy="unpack its packages there, each with: dpkg -x PACKAGE.deb DIRECTORY",
    )


def _missing_programs(spec: LabSpec) -> AiHowError | None:
    missing = [name for name in _PACKAGES if shutil.which(name, path=search_path()) is None]
    if spec.libvirt_root is not None:
        missing = [name for name in missing if name != "libvirtd"]
    if not missing:
        return None
    packages = sorted({_PACKAGES[name] for name in missing})
    return HostError(
        f"a lab needs {', '.join(missing)}",
        why="not found on this host",
        remedy=f"install: apt-get install {' '.join(packages)}",
    )
