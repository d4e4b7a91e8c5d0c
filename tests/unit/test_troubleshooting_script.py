"""The documented script without libvirt: what can be told, with our environment and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "python/ai_how/examples/network_troubleshooting.py"
NOWHERE = "qemu:///system?socket=/nowhere/libvirt-sock"

#: Ours, one that has nothing of ours, and the system's.
PYTHONS = {
    "ours": (sys.executable,),
    "bare": (sys.executable, "-I", "-S"),
    "system's": ("/usr/bin/python3",),
}
pythons = pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)


def ask(*words: str, python: tuple[str, ...] = PYTHONS["ours"], **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, called as documented from the repository's root."""
    return subprocess.run(
        [*python, SCRIPT, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LIBVIRT_DEFAULT_URI": NOWHERE, **environment},
    )


@pythons
@pytest.mark.parametrize("words", [(), ("networks",), ("dnsmasq",), ("network", "n"), ("vm", "m")], ids=" ".join)
def test_host_whose_libvirt_is_not_there_is_neither_well_nor_wrong(
    words: tuple[str, ...], python: tuple[str, ...]
) -> None:
    ended = ask(*words, python=python)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "libvirtd-down of host: " in ended.stdout
    assert "/nowhere/libvirt-sock" in ended.stdout
    assert "not looked at: " in ended.stdout
    assert "healthy" not in ended.stdout
    assert ended.stderr == ""


def test_without_bindings_and_without_virsh_it_says_how_to_get_them(tmp_path: Path) -> None:
    """Nothing on the path but what the script itself takes; /usr/sbin and /usr/bin are searched for virsh besides."""
    script = (
        "import sys; sys.path.insert(0, 'python')\n"
        "import ai_how.diagnose.ask.libvirt as door\n"
        f"door.SEARCH = {str(tmp_path)!r}\n"
        f"sys.argv = ['x']; exec(open({SCRIPT!r}).read().replace('__file__', repr({SCRIPT!r})))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "libvirt's Python bindings cannot be loaded" in ended.stdout
    assert "apt-get install python3-libvirt" in ended.stdout


@pytest.mark.parametrize("words", [("nonsense",), ("network",), ("vm", "a", "b"), ("network", "")], ids=" ".join)
def test_wrong_use_names_the_questions(words: tuple[str, ...]) -> None:
    ended = ask(*words)
    assert ended.returncode == 2
    assert "[networks | dnsmasq | network NAME | vm NAME]" in ended.stderr
    assert ended.stdout == ""


def test_help_says_what_can_be_asked_and_what_the_exit_codes_mean() -> None:
    ended = ask("--help")
    assert ended.returncode == 0
    assert "[networks | dnsmasq | network NAME | vm NAME]" in ended.stdout
    assert "0 healthy, 1 something is wrong, 2 wrong use, 3 could not look" in ended.stdout


def test_interpreter_that_has_nothing_of_ours_finds_us_beside_the_script() -> None:
    bare = PYTHONS["bare"]
    assert subprocess.run([*bare, "-c", "import ai_how"], cwd=ROOT, capture_output=True, check=False).returncode == 1
    assert ask("--help", python=bare).returncode == 0
