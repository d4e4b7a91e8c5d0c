"""Programs that tests run and the machine need not have: Debian's packages, unpacked beside the system.

They cannot be fetched from inside a lab: tests/conftest.py does it before the run moves into one. Nothing is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ai_how.host.files import own_cache

#: What tests of the host's resolvers run: the daemons, and the libraries of the same version.
RESOLVERS = (
    *("systemd-resolved", "systemd", "libsystemd-shared"),
    *("dbus-daemon", "libdbus-1-3", "libapparmor1", "libexpat1"),
    *("network-manager", "libnm0", "libndp0", "libteamdctl0", "libjansson4", "libmm-glib0", "libbluetooth3"),
    *("libcurl3-gnutls", "libnewt0.52", "libslang2", "dnsmasq"),
)
#: Debian has it in bullseye and no later.
CONSUL = ("consul",)
#: The libvirt whose firewall backend is nftables (10.4 and later), from bookworm-backports; docs/lab.md has it by hand.
LIBVIRT = (
    *("libvirt0", "libvirt-common", "libvirt-clients", "libvirt-daemon", "libvirt-daemon-config-nwfilter"),
    *(f"libvirt-daemon-{part}" for part in ("common", "lock", "log")),
    *(f"libvirt-daemon-driver-{part}" for part in ("qemu", "network", "storage", "nwfilter")),
    *(f"libvirt-daemon-driver-{part}" for part in ("nodedev", "interface", "secret")),
)
#: For the system's python3, which has D-Bus and GObject already.
FIREWALLD = ("firewalld", "python3-firewall", "python3-nftables", "python3-cap-ng")


class NotFetched(Exception):
    """Packages cannot be had; the text is apt's own words."""


def fetched(names: Sequence[str], suite: str = "bookworm") -> Path:
    """The root of a tree with the files of the packages `names` in `suite`, and of no others: dependencies count only
    where they are named. From the cache, else from the mirror of this machine's package lists. Raises NotFetched."""
    cache = own_cache()
    base = (cache or Path(tempfile.gettempdir()) / f"ai-how-{os.geteuid()}") / "packages"
    root = base / f"{suite}-{hashlib.sha256(' '.join(sorted(names)).encode()).hexdigest()[:12]}"
    if root.is_dir():
        return root
    base.mkdir(parents=True, exist_ok=True)
    with _alone(base / "lock"):
        if root.is_dir():
            return root
        with tempfile.TemporaryDirectory(dir=base) as scratch:
            new = Path(scratch) / "root"
            new.mkdir(mode=0o755)
            for package in _download(names, suite, Path(scratch)):
                _run(["dpkg-deb", "--extract", str(package), str(new)])
            new.rename(root)
    return root


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Runs side by side need the same packages at the same time: one fetches them, the others wait for it."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _download(names: Sequence[str], suite: str, scratch: Path) -> list[Path]:
    """Their files, by an apt of our own: neither its sources nor its lists are the machine's."""
    for part in ("lists/partial", "cache/archives/partial", "sources.d", "debs"):
        (scratch / part).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb {_mirror()} {suite} main\n")
    options = {
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Dir::Etc::SourceList": str(scratch / "sources.list"),
        "Dir::Etc::SourceParts": str(scratch / "sources.d"),
        "Dir::State::Lists": str(scratch / "lists"),
        "Dir::State::Status": str(scratch / "status"),
        "Dir::Cache": str(scratch / "cache"),
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items() if value)]
    _run([*apt, "update"])
    _run([*apt, "download", *names], cwd=scratch / "debs")
    return sorted((scratch / "debs").glob("*.deb"))


def _mirror() -> str:
    """The first of the machine's own mirrors."""
    listed = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    if not listed.split():
        raise NotFetched("apt has no package lists: apt-get update")
    return listed.split()[0]


def _run(argv: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFetched(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        raise NotFetched(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
