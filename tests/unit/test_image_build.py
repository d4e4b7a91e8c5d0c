"""The builder around its parts: the cache, what it refuses, and that nothing half made is ever seen.

The image itself is built in tests/lab; here the cache holds a finished "image", so that no package is needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from ai_how.errors import HostError, PrivilegeError, UsageError
from ai_how.images import build_micro_image, packages
from ai_how.images.micro import Outcome, default_cache, image_key

WANTED = (
    packages.Package("busybox-static", "busybox-static_1_amd64.deb", 1, "a" * 64),
    packages.Package("linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1_amd64.deb", 2, "b" * 64),
)
CONTENT = b"QFI\xfb" + bytes(100_000)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache whose image is finished, and whose answer of apt is that of the present package lists."""
    store = tmp_path / "cache"
    store.mkdir()
    answer = {"lists": packages.lists_fingerprint(), "packages": [asdict(package) for package in WANTED]}
    (store / "packages.json").write_text(json.dumps(answer))
    (store / f"{image_key(WANTED)}.qcow2").write_bytes(CONTENT)
    return store


def test_finished_image_is_copied_and_then_up_to_date(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "micro.qcow2"
    first = build_micro_image(path, cache=cache)
    assert (first.outcome, path.read_bytes(), first.size) == (Outcome.CACHED, CONTENT, len(CONTENT))
    assert first.kernel == "linux-image-6.1.0-56-cloud-amd64"
    assert build_micro_image(path, cache=cache).outcome is Outcome.UNCHANGED


def test_image_is_a_copy_so_that_writing_to_it_spares_the_cache(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "micro.qcow2"
    build_micro_image(path, cache=cache)
    path.write_bytes(b"a machine was started on it")
    assert (cache / f"{image_key(WANTED)}.qcow2").read_bytes() == CONTENT


def test_other_file_is_replaced_only_when_told(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "micro.qcow2"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists") as caught:
        build_micro_image(path, cache=cache)
    assert "--force" in caught.value.remedy
    assert path.read_bytes() == b"precious"
    build_micro_image(path, cache=cache, replace=True)
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "micro.qcow2"]


def test_key_changes_with_every_package_file() -> None:
    other = (WANTED[0], packages.Package(WANTED[1].name, "linux-image-6.2_amd64.deb", 2, "c" * 64))
    assert image_key(WANTED) == image_key(WANTED)
    assert image_key(WANTED) != image_key(other)


def test_directory_and_missing_directory_are_refused_before_any_work(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        build_micro_image(tmp_path, cache=cache)
    with pytest.raises(UsageError, match="not a directory") as caught:
        build_micro_image(tmp_path / "no" / "micro.qcow2", cache=cache)
    assert caught.value.remedy == f"Create it: mkdir -p {tmp_path / 'no'}"


def test_missing_tools_are_named_all_at_once_as_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if packages.kernel_for(Path("/etc/os-release").read_text()) is None:
        pytest.skip("this machine is neither Debian nor Ubuntu, which is another error")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        build_micro_image(tmp_path / "micro.qcow2", cache=tmp_path / "cache")
    assert caught.value.remedy == f"Install them: apt-get install {' '.join(sorted(set(packages.TOOLS.values())))}"
    assert not (tmp_path / "micro.qcow2").exists()


def test_machine_without_debian_packages_is_told_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os-release").write_text("ID=fedora\n")
    monkeypatch.setattr(packages, "_OS_RELEASE", tmp_path / "os-release")
    with pytest.raises(HostError, match="Debian's or Ubuntu's packages for amd64"):
        build_micro_image(tmp_path / "micro.qcow2", cache=tmp_path / "cache")


def test_what_a_killed_builder_left_is_removed(cache: Path, tmp_path: Path) -> None:
    left = cache / "unfinished-abc"
    left.mkdir()
    (left / "disk.raw").write_bytes(b"half")
    part = tmp_path / ".micro.qcow2.abc.part"
    part.write_bytes(b"half")
    others = tmp_path / ".micro.qcow2.xyz.part"
    with others.open("wb") as at_work:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        build_micro_image(tmp_path / "micro.qcow2", cache=cache)
    assert not left.exists()
    assert not part.exists()
    assert others.exists(), "it belongs to a builder that is still at work"


def test_second_builder_waits_for_the_first(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "micro.qcow2"
    with (cache / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=build_micro_image, args=(path,), kwargs={"cache": cache}, daemon=True)
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert not path.exists()
    second.join(60)
    assert not second.is_alive()
    assert path.read_bytes() == CONTENT


def test_full_directory_leaves_nothing_and_is_said(cache: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    script = (
        "import sys; from pathlib import Path; from ai_how.images import build_micro_image\n"
        "try: build_micro_image(Path(sys.argv[1]) / 'micro.qcow2', cache=Path(sys.argv[2]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))"
    )
    small = tmp_path / "small"
    small.mkdir()
    command = 'mount -t tmpfs -o size=16k tmpfs "$1" && exec "$3" -c "$4" "$1" "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", str(small), str(cache), sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": "python"},
    )
    assert "HostError" in done.stdout
    assert "No space left on device" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_directory_that_may_not_be_written_is_a_privilege_error(cache: Path, tmp_path: Path) -> None:
    closed = Path("/proc/sys") if os.geteuid() == 0 else tmp_path / "closed"
    if os.geteuid() != 0:
        closed.mkdir(mode=0o500)
    with pytest.raises(PrivilegeError, match="cannot be written"):
        build_micro_image(closed / "micro.qcow2", cache=cache)


def test_cache_follows_the_xdg_variable_and_ignores_a_relative_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_cache() == tmp_path / "cache" / "ai-how" / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "ai-how" / "images"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_root_never_builds_in_the_home_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.chown(tmp_path, 65534, 65534)
    assert default_cache() == Path("/var/cache/ai-how/images")
