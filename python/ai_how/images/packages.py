"""The Debian packages the image is made of: which ones, and their files. Nothing is installed, no root is needed.

`apt-cache` and `apt-get download` ask the machine's own, already verified package lists; `dpkg-deb` opens packages.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ai_how.errors import CommandFailed, HostError
from ai_how.images.process import run

#: A program the build runs, and the package that has it on Debian and Ubuntu.
TOOLS: Mapping[str, str] = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "lz4": "lz4",
    "mcopy": "mtools",
    "mformat": "mtools",
    "qemu-img": "qemu-utils",
    "syslinux": "syslinux",
}
#: The metapackage that depends on the newest small kernel, by the ID of /etc/os-release.
KERNELS: Mapping[str, str] = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
#: The kernel itself (a metapackage's name has no version in it), and what the guest's programs are linked with.
_KERNEL = re.compile(r"linux-(image|modules)-\d.*")
_LIBRARIES = re.compile(r"(libc6|libglib2\.0-0|libnuma1|libpcre2-8-0|libudev1|liburing2)(t64)?")
_PROGRAMS = ("busybox-static", "qemu-guest-agent")

_LISTS = Path("/var/lib/apt/lists")
_OS_RELEASE = Path("/etc/os-release")
_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)(?: SHA256:(?P<sha256>[0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True)
class Package:
    """One package file as the repository describes it. `sha256` is empty where the repository gives none."""

    name: str
    file: str
    size: int
    sha256: str


def check_host() -> str:
    """The kernel metapackage to use here. Raises HostError naming everything the machine lacks for a build."""
    kernel = kernel_for(_OS_RELEASE.read_text() if _OS_RELEASE.exists() else "")
    if kernel is None or platform.machine() != "x86_64":
        raise HostError(
            "the micro image cannot be built on this machine",
            why="it is made of Debian's or Ubuntu's packages for amd64, fetched by apt",
            remedy="Build it on Debian or Ubuntu (a container will do) and copy it: the image runs on any x86 host.",
        )
    packages = missing_packages(TOOLS)
    if packages:
        raise HostError(
            "programs are missing to build the micro image",
            why=", ".join(tool for tool in TOOLS if shutil.which(tool) is None),
            remedy=f"Install them: apt-get install {' '.join(packages)}",
        )
    return kernel


def kernel_for(os_release: str) -> str | None:
    """The kernel metapackage for a system with this /etc/os-release; None for one without Debian's packages."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    like = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return next((KERNELS[name] for name in like if name in KERNELS), None)


def missing_packages(tools: Mapping[str, str]) -> tuple[str, ...]:
    """The packages of those `tools` that are not on the PATH, each once, sorted."""
    return tuple(sorted({package for tool, package in tools.items() if shutil.which(tool) is None}))


def lists_fingerprint() -> str:
    """Changes whenever `apt-get update` may have changed what `resolve` answers; costs no run of apt."""
    digest = hashlib.sha256()
    for path in sorted(_LISTS.glob("*Packages*")):
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def resolve(kernel: str) -> tuple[Package, ...]:
    """The packages of the image in their newest version here, sorted by name."""
    argv = ["apt-cache", "depends", "--recurse", "--important", kernel, *_PROGRAMS]
    names = sorted(choose(run(argv).decode().splitlines()))
    if not any(_KERNEL.fullmatch(name) for name in names):
        raise HostError(
            f"apt knows no package behind {kernel}",
            why="its package lists are empty or do not have it",
            remedy="Refresh them: apt-get update",
        )
    return read_uris(run(["apt-get", "download", "--print-uris", *names]).decode())


def choose(lines: Iterable[str]) -> set[str]:
    """Out of the closure that `apt-cache depends --recurse` prints, the packages whose files the image uses."""
    closure = {line.strip() for line in lines if line and not line.startswith(" ")}
    return {name for name in closure if _KERNEL.fullmatch(name) or _LIBRARIES.fullmatch(name) or name in _PROGRAMS}


def read_uris(text: str) -> tuple[Package, ...]:
    """Understands `apt-get download --print-uris`."""
    found = [
        Package(m["file"].split("_", 1)[0], m["file"], int(m["size"]), m["sha256"] or "")
        for m in _URI.finditer(text)
        if urlsplit(m["uri"]).path.endswith(".deb")
    ]
    return tuple(sorted(found, key=lambda package: package.name))


def fetch(packages: Iterable[Package], directory: Path, scratch: Path) -> tuple[Path, ...]:
    """Their files in `directory`; what is not there yet, whole and with the right checksum, is downloaded."""
    packages = tuple(packages)
    absent = [package for package in packages if not is_intact(directory / package.file, package)]
    if absent:
        try:
            as_root = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
            run(["apt-get", "-qq", *as_root, "download", *(p.name for p in absent)], cwd=scratch)
        except CommandFailed as error:
            raise HostError(
                "the micro image's Debian packages could not be downloaded",
                why=error.stderr.strip(),
                remedy="Their mirror must answer (try apt-get update). In a lab it cannot: build once outside.",
            ) from error
    for package in absent:
        if not is_intact(scratch / package.file, package):
            raise HostError(
                f"{package.file} is not what the package lists describe",
                why="its size or checksum differs",
                remedy="Refresh the lists and try again: apt-get update",
            )
        (scratch / package.file).replace(directory / package.file)
    return tuple(directory / package.file for package in packages)


def is_intact(path: Path, package: Package) -> bool:
    """Is `path` there, with the size and checksum of `package`?"""
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    if not package.sha256:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256


def files(package: Path) -> dict[str, bytes]:
    """Every file of a .deb by its path without a leading slash. A symlink has the content of what it points to."""
    found: dict[str, bytes] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(run(["dpkg-deb", "--fsys-tarfile", str(package)]))) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                found[name] = content.read()
            elif member.issym():
                links[name] = str(PurePosixPath(name).parent / member.linkname)
    for name, target in links.items():
        if target in found:
            found[name] = found[target]
    return found
