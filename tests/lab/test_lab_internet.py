"""The pretend internet, asked from the lab."""

from __future__ import annotations

import subprocess

from ai_how.lab import INTERNET


def test_any_name_is_served_by_the_web_server() -> None:
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "5", f"http://{INTERNET.name}/any/path"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (INTERNET.web_body, "")
