"""The demo: what it proves, that it says no where something is missing, and that it leaves nothing."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ai_how.images import build_micro_image
from ai_how.lab import LabSpec, cache_directory, open_lab

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "scripts" / "demo"
OUTSIDE = [sys.executable, str(ROOT / "scripts" / "demo_outside.py")]
DOCUMENTED = {
    "hpc-cluster-controller": "52:54:00:12:34:01 192.168.100.2",
    "hpc-cluster-compute-01": "52:54:00:12:34:02 192.168.100.10",
    "hpc-cluster-compute-02": "52:54:00:12:34:03 192.168.100.11",
}
DEADLINE = 900  # seconds, on a machine that does other things, too


@pytest.fixture(scope="module")
def micro_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_micro_image(tmp_path_factory.mktemp("image") / "micro.qcow2").path


def answers(said: str) -> dict[str, tuple[str, str]]:
    """What the demo shows of its proofs: claim → (ok or FAILED, what came back)."""
    lines = re.findall(r"^  (ok|FAILED) +(\S+(?: \S+)*) {2,}.*  →  (.*)$", said, re.MULTILINE)
    return {claim: (verdict, came) for verdict, claim, came in lines}


def test_the_demo_proves_the_documented_cluster_and_leaves_nothing(clean_host: None, tmp_path: Path) -> None:
    done = subprocess.run(
        OUTSIDE, cwd="/", env=with_temporary(tmp_path), capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = answers(done.stdout)
    assert {name: shown[name] for name in DOCUMENTED} == {name: ("ok", DOCUMENTED[name]) for name in DOCUMENTED}
    assert shown["names"] == ("ok", "Address: 192.168.100.2")
    assert shown["names, reverse"][1].endswith("name = hpc-cluster-controller.hpc-cluster.internal")
    assert shown["internet by name"] == ("ok", "ai-how lab: the pretend internet")
    assert {verdict for verdict, _ in shown.values()} == {"ok"}
    assert len(shown) == len(DOCUMENTED) + 6
    assert "hpc-cluster: removed" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert words_drawn((ROOT / "docs" / "demo.svg").read_text()) == words(draw_demo().scene(done.stdout)), (
        "the picture shows another demo: run scripts/picture"
    )


def draw_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_demo", ROOT / "scripts" / "draw_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(shown: str) -> list[str]:
    """The words that are the same in every run: times and clocks have digits."""
    return [word for word in shown.split() if not re.search(r"\d", word)]


def words_drawn(svg: str) -> list[str]:
    texts = re.findall(r'<text class="demo-r\d+"[^>]*>(.*?)</text>', svg)
    return words(" ".join(html.unescape(text) for text in texts))


@pytest.fixture(scope="module")
def without_internet(
    micro_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.CompletedProcess[str]]:
    """The demo with --keep in a lab that has no internet; in its shell, `ai-how status` is asked."""
    folder = tmp_path_factory.mktemp("demo with spaces")
    shutil.copy(micro_image, folder / "micro.qcow2")
    with open_lab(LabSpec(internet=False, cache=cache_directory())) as lab:
        argv = [sys.executable, str(ROOT / "scripts" / "demo_inside.py"), str(folder), "--keep"]
        yield lab.run(argv, env={"SHELL": "/bin/sh"}, text="echo kept:; ai-how status; exit 7\n", timeout=DEADLINE)


def test_the_demo_fails_where_the_internet_is_missing(without_internet: subprocess.CompletedProcess[str]) -> None:
    shown = answers(without_internet.stdout)
    assert {claim for claim, (verdict, _) in shown.items() if verdict == "FAILED"} == {
        "internet by address",
        "internet by name",
    }
    assert shown["gateway"][0] == "ok"
    assert without_internet.returncode == 1


def test_keep_gives_a_shell_beside_the_running_cluster(without_internet: subprocess.CompletedProcess[str]) -> None:
    in_shell = without_internet.stdout.partition("kept:\n")[2]
    assert in_shell.startswith("hpc-cluster  hpc-cluster-network active")
    assert in_shell.count(" running ") == 3
    assert "removed" not in without_internet.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing(
    number: signal.Signals, code: int, clean_host: None, micro_image: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        OUTSIDE, env=with_temporary(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as demo:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if line.strip())
        assert line == "$ ai-how up demo.yaml\n"
        demo.send_signal(number)
        rest = demo.stdout.read()
    assert demo.returncode == code
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_without_root_the_demo_says_the_command_to_run() -> None:
    # In a user namespace of its own, root is nobody.
    done = subprocess.run(["unshare", "--user", str(DEMO), "--keep"], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"sudo {DEMO} --keep\n" in done.stderr


def test_elsewhere_than_on_debian_the_demo_lists_the_packages(tmp_path: Path) -> None:
    for name in ("bash", "id", "dirname", "sed", "awk", "readlink"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(tmp_path / "bash"), str(DEMO)], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert {"libvirt-daemon-system", "qemu-system-x86", "dnsmasq-base"} <= set(done.stderr.split())


def test_wrong_words_are_refused() -> None:
    done = subprocess.run([str(DEMO), "--kep"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: scripts/demo [--keep]\n")


def with_temporary(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder)}
