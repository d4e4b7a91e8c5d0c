"""Builds the micro image: packages → initramfs → disk → cache → PATH.

The cache holds finished images under a name made of everything that goes into them (`image_key`), so a second build is
a copy. One builder at a time works in a cache (a lock that the kernel drops when it dies); what it has not finished
lies in a scratch folder that the next builder removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from ai_how.errors import HostError, PrivilegeError, UsageError
from ai_how.host.files import own_cache
from ai_how.images import cpio, disk, packages, rootfs

Progress = Callable[[str], None]

_SCRATCH = "unfinished-"
#: Finished images that stay in the cache: the one in use, and those of a branch or release next to it.
_KEEP = 3


class Outcome(StrEnum):
    """How the image came to PATH."""

    BUILT = "built"
    CACHED = "copied from the cache"
    UNCHANGED = "up to date"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """The image at `path`: `size` in bytes, `key` of its content, `kernel` its kernel package."""

    path: Path
    size: int
    key: str
    kernel: str
    outcome: Outcome


def default_cache() -> Path:
    """The folder `images` in the user's own cache; for root without one in /var/cache. Raises UsageError."""
    own = own_cache()
    if own is None and os.geteuid() == 0:
        own = Path("/var/cache/ai-how")
    if own is None:
        raise UsageError(
            "there is no cache to build images in",
            why="this user has no home directory of their own",
            remedy="Name a directory: XDG_CACHE_HOME=DIR ai-how image build PATH",
        )
    return own / "images"


def build_micro_image(
    path: Path, *, cache: Path | None = None, progress: Progress | None = None, replace: bool = False
) -> BuiltImage:
    """Puts the micro guest image at `path`, whole or not at all.

    A file that is there already is left alone: up to date if it is the same image, else a UsageError, unless `replace`.
    `progress` is called with the name of each step. Raises HostError when this machine cannot build it (naming all
    missing packages), PrivilegeError where it may not write.
    """
    path = path.absolute()
    tell = progress or (lambda _: None)
    _check_target(path)
    with _plainly(cache or default_cache()), _locked(cache or default_cache()) as store:
        wanted = _packages(store, tell)
        key = image_key(wanted)
        image = store / f"{key}.qcow2"
        present = path.exists()
        built = not image.exists()
        if present and not replace and (built or not filecmp.cmp(path, image, shallow=False)):
            raise UsageError(
                f"{path} exists and is not the present micro image",
                why="it may be something else, or in use as the base of running machines",
                remedy="Choose another path, or replace it with --force.",
            )
        if built:
            _build(wanted, image, store, tell)
            _prune(store, wanted)
        else:
            os.utime(image)
        kernel = next(p.name for p in wanted if p.name.startswith("linux-image-"))
        if present and not built and filecmp.cmp(path, image, shallow=False):
            return BuiltImage(path, path.stat().st_size, key, kernel, Outcome.UNCHANGED)
        tell(f"writing {path}")
        _publish(image, path, replace=replace)
    return BuiltImage(path, path.stat().st_size, key, kernel, Outcome.BUILT if built else Outcome.CACHED)


def image_key(wanted: tuple[packages.Package, ...]) -> str:
    """Names the content: equal for equal packages and an equal ai-how image builder."""
    digest = hashlib.sha256(_own_sources())
    for package in wanted:
        digest.update(f"{package.file} {package.size} {package.sha256}\n".encode())
    return digest.hexdigest()[:24]


def _own_sources() -> bytes:
    """A digest of this package: whoever changes the guest or the builder need not remember a version number."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(__file__).parent.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()


def _packages(store: Path, tell: Progress) -> tuple[packages.Package, ...]:
    """What to build from. Asking apt takes a second, so its answer is kept while its package lists stay the same."""
    memory = store / "packages.json"
    lists = packages.lists_fingerprint()
    try:
        kept = json.loads(memory.read_text())
        if kept["lists"] == lists:
            return tuple(packages.Package(**package) for package in kept["packages"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or of another version: ask again
    kernel = packages.check_host()
    tell("resolving Debian packages")
    wanted = packages.resolve(kernel)
    fresh = memory.with_name(f"{_SCRATCH}packages.json")
    fresh.write_text(json.dumps({"lists": lists, "packages": [asdict(package) for package in wanted]}))
    fresh.replace(memory)
    return wanted


def _build(wanted: tuple[packages.Package, ...], image: Path, store: Path, tell: Progress) -> None:
    packages.check_host()
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=store) as folder:
        scratch = Path(folder)
        debs = store / "packages"
        debs.mkdir(exist_ok=True)
        tell(f"fetching {len(wanted)} packages ({sum(p.size for p in wanted) // 1024**2} MiB)")
        files: dict[str, bytes] = {}
        paths = packages.fetch(wanted, debs, scratch)
        tell(f"unpacking {len(paths)} packages")
        for path in paths:
            files |= packages.files(path)
        tell("packing the initramfs")
        busybox = scratch / "busybox"
        busybox.write_bytes(files["bin/busybox"])
        busybox.chmod(0o755)
        archive = cpio.archive(rootfs.entries(files, files["bin/busybox"], rootfs.applet_names(busybox)))
        initramfs = disk.lz4(archive)
        kernel = next(content for name, content in files.items() if name.startswith("boot/vmlinuz-"))
        tell("writing the bootable disk")
        disk.write_disk(kernel, initramfs, scratch).replace(image)


def _prune(store: Path, wanted: tuple[packages.Package, ...]) -> None:
    """Keeps the cache from growing with every kernel update."""
    names = {package.file for package in wanted}
    for deb in (store / "packages").iterdir():
        if deb.name not in names:
            deb.unlink()
    images = sorted(store.glob("*.qcow2"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in images[_KEEP:]:
        old.unlink()


@contextmanager
def _locked(store: Path) -> Iterator[Path]:
    """The cache, ours alone until the end; what a killed builder left in it is removed."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in store.glob(f"{_SCRATCH}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        yield store


@contextmanager
def _plainly(store: Path) -> Iterator[None]:
    """Turns the system's refusal (no space, no permission) into an error that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise PrivilegeError(
            f"{error.filename or store} cannot be written",
            why=error.strerror or str(error),
            remedy="Choose a place you may write to (for the cache: XDG_CACHE_HOME), or run as root.",
        ) from error
    except OSError as error:
        raise HostError(
            f"{error.filename or store} cannot be written",
            why=error.strerror or str(error),
            remedy="The build needs about 100 MiB in its cache (XDG_CACHE_HOME) and 16 MiB for the image.",
        ) from error


def _check_target(path: Path) -> None:
    """Refuses before minutes of work what cannot be written afterwards."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory", remedy=f"Name a file: {path / 'micro.qcow2'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"{path.parent} is not a directory",
            why="the image's directory is not created silently",
            remedy=f"Create it: mkdir -p {path.parent}",
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PrivilegeError(
            f"{path.parent} cannot be written",
            why="permission denied, or a read-only file system",
            remedy="Choose another directory, or run as a user who may write there.",
        )


def _publish(image: Path, path: Path, *, replace: bool) -> None:
    """A copy of `image` at `path` in one step: nobody sees a part of it.

    A copy, not a hard link: a machine started on PATH itself, without an overlay, would write into the cache.
    """
    _remove_abandoned(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as target, image.open("rb") as source:
            fcntl.flock(target, fcntl.LOCK_EX)
            shutil.copyfileobj(source, target, 1024 * 1024)
            os.fchmod(target.fileno(), 0o644)
        if replace:
            part.replace(path)
        else:
            os.link(part, path)
    except FileExistsError as error:
        raise UsageError(
            f"{path} has just been made by someone else", remedy="Run again, or replace it with --force."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Removes beside `path` what builders that were killed while copying have left: nobody holds a lock on it."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if not part.is_file():
            continue
        with contextlib.suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
