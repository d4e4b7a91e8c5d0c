"""The text of libvirt's network hook."""

from __future__ import annotations

import subprocess

import pytest

from ai_how.compile.hook import HOOK, MARK
from ai_how.host import memory


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_hook_is_a_shell_script_that_parses(shell: str) -> None:
    subprocess.run([shell, "-n"], input=HOOK.content, check=True, text=True)


def test_hook_begins_with_our_mark_and_reads_our_memory() -> None:
    assert HOOK.content.startswith(MARK)
    assert f"\nmemory={memory.DIRECTORY}\n" in HOOK.content
