"""Files that must survive us, also in a directory where others may write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ai_how.engine.state import open_state, read_state
from ai_how.errors import StateError
from ai_how.host import told
from ai_how.host.files import half, refuse_special, write_atomically


@pytest.mark.parametrize("lay", [os.link, os.symlink], ids=["hard link", "symbolic link"])
def test_what_somebody_laid_in_the_place_of_the_new_file_is_not_written_into(
    lay: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    theirs, path = tmp_path / "theirs", tmp_path / "state"
    theirs.write_text("theirs")
    lay(theirs, tmp_path / ".state.new")
    write_atomically(path, "ours")
    assert (theirs.read_text(), path.read_text()) == ("theirs", "ours")
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state", "theirs"]


def test_half_a_file_beside_the_whole_one_has_not_been_read(tmp_path: Path) -> None:
    """So that the next run writes it anew, and the half is gone."""
    place = told.file_of(tmp_path, "tried", "servers")
    told.tell({place: ["server=1.1.1.1"]}, lambda: None)
    assert told.ours(tmp_path, "servers") == {"tried": ("server=1.1.1.1",)}
    half(place).write_text("server=8")
    assert told.ours(tmp_path, "servers") == {"tried": (told.UNREAD, "server=1.1.1.1")}
    told.tell({place: ["server=1.1.1.1"]}, lambda: None)
    assert [*tmp_path.iterdir()] == [place]


def test_what_is_no_plain_file_is_not_replaced(tmp_path: Path) -> None:
    """Root would take /dev/null or /dev/stdout from the whole machine."""
    pipe, link, plain = tmp_path / "pipe", tmp_path / "link", tmp_path / "plain"
    os.mkfifo(pipe)
    link.symlink_to("/proc/self/fd/1")
    plain.write_text("old")
    for special, why in (
        (pipe, "no plain file"),
        (link, "no plain file"),
        (tmp_path, "a folder"),
        (Path(), "a folder"),
    ):
        with pytest.raises(OSError, match=why):
            refuse_special(special)
    refuse_special(plain)
    refuse_special(tmp_path / "new")


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_a_pipe_or_device_is_no_state_file(linked: bool, tmp_path: Path) -> None:
    pipe, state = tmp_path / "pipe", tmp_path / "state"
    os.mkfifo(pipe)
    state.symlink_to(pipe) if linked else pipe.rename(state)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StateError, match="the state file cannot be"), open_state(state):
        pass
    with pytest.raises(StateError, match="no plain file"):
        read_state(state)
    assert sorted(tmp_path.iterdir()) == before
