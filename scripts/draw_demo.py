"""Draws what the demo shows as an SVG file: text, small, and the same for the same words."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

DEMO = Path(__file__).with_name("demo_outside.py")
WIDTH = 140  # columns
STYLES = {
    r"^\$ .*": "bold",
    r"^  ok ": "green",
    r"FAILED": "bold red",
    r"\b(running|active)\b": "green",
    r"^  NODE .*": "bold",
    r"→": "cyan",
}
#: The picture brings no font from elsewhere; readers have one.
FONT_FACES = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def main(target: Path) -> int:
    """Run the demo and draw it; the exit code."""
    done = subprocess.run([sys.executable, str(DEMO)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        target.write_text(draw(scene(done.stdout)), encoding="utf-8")
    return done.returncode


def scene(said: str) -> str:
    """Of what the demo said, the part from `status` on, without what is said for later."""
    shown = said[said.index("$ ai-how status") : said.index("The same on this host")]
    return f"$ sudo scripts/demo\n…\n{shown.rstrip()}"


def draw(words: str) -> str:
    """The words as on a terminal, in SVG."""
    text = Text(words)
    for pattern, style in STYLES.items():
        text.highlight_regex(f"(?m){pattern}", style)
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True)
    console.print(text, soft_wrap=False)
    svg = console.export_svg(title="ai-how", unique_id="demo")
    return FONT_FACES.sub("\n", svg).replace("Fira Code, monospace", FONTS)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
