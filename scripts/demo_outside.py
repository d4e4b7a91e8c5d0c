"""The demo outside the lab: builds the micro image, opens the lab, and hands over to demo_inside.py.

With `--only-image` it fills the cache of images and ends; that much runs on the bare Python of the system.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from ai_how import lab
from ai_how.errors import AiHowError
from ai_how.images import build_micro_image

INSIDE = Path(__file__).with_name("demo_inside.py")
EXAMPLE = Path(__file__).parent.parent / "examples" / "static-ip.yaml"


def main(options: list[str]) -> int:
    """Show everything, once; the exit code. Nothing stays, however it ends: the lab and the folder go with us."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with tempfile.TemporaryDirectory(prefix="ai-how-demo-") as folder:
            built = build_micro_image(Path(folder) / "micro.qcow2", progress=_say)
            if "--only-image" in options:  # to be found in its cache
                return 0
            _say(f"{built.kernel}, {built.size / 1024**2:.0f} MiB, {built.outcome}")
            code = lab.run([sys.executable, str(INSIDE), folder, *options], internet=True)
    except AiHowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if code == 0:
        _say_how()
    return code


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _say(text: str) -> None:
    print(f"micro image: {text}", file=sys.stderr, flush=True)


def _say_how() -> None:
    program = shlex.quote(str(Path(sys.executable).with_name("ai-how")))
    print(
        f"""
The same on this host, with your own file (as root, or as a member of the group libvirt):

    cp {shlex.quote(str(EXAMPLE))} my.yaml    # then set base_image_path in it
    {program} validate my.yaml
    {program} up my.yaml
    {program} destroy my.yaml

No image at hand?   {program} image build /var/lib/libvirt/images/micro.qcow2
First in a lab?     sudo {program} lab run --internet -- bash"""
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
