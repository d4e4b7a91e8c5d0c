"""What a first user did to it: odd streams, odd places for the state, images that are no files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai_how.engine.state import open_state
from ai_how.errors import StateError
from ai_how.host.image import header_of

CONFIGURATION = """\
clusters:
  hpc:
    name: tried
    base_image_path: /nowhere.qcow2
    network: {subnet: 10.44.0.0/24, bridge: br-tried}
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 1}
"""


def in_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {sys.executable} -m ai_how {line}"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **environment},
    )


def test_streams_that_know_only_ascii_get_the_whole_answer(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text(CONFIGURATION)
    ended = in_shell(f"validate {config}", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert "10.44.0.10 \\u2013 10.44.0.254" in ended.stdout
    assert "tried-controller" in ended.stdout


@pytest.mark.parametrize("verb", ["version", "schema", "--help"])
def test_answer_that_finds_no_room_is_a_failure_of_the_host_and_no_bug(verb: str) -> None:
    ended = in_shell(f"{verb} > /dev/full")
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: the answer cannot be written: No space left on device")
    assert "Traceback" not in ended.stderr
    assert "bug" not in ended.stderr


@pytest.mark.parametrize("line", ["version >&-", "schema >&- 2>&-", "version 2>&-", "--help <&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_swallow_what_is_said(line: str) -> None:
    ended = in_shell(line)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("place", ["", ".", "/", ".."])
def test_state_file_that_is_a_folder_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match="folder"), open_state(Path(place)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_state_file_behind_a_link_is_written_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, real = tmp_path / "state.json", tmp_path / "elsewhere" / "state.json"
    link.symlink_to(real)
    with open_state(link) as state:
        state.remember("one", "qemu:///system")
        with pytest.raises(StateError, match="in use"), open_state(real):
            pass
    assert link.is_symlink()
    assert "one" in real.read_text()


def test_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "image.qcow2"
    os.mkfifo(pipe)
    assert header_of(pipe) is None
