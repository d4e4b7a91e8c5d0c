"""Files that must survive us, also in a directory where others may write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ai_how.host.files import write_atomically


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
