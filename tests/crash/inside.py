"""The part of the harness that runs inside a lab: one scenario, a line of JSON for every point as it is tried.

`python -m tests.crash.inside MODE/VERB SIZE LIBVIRT [AT]`: SIZE points of it (0: all), LIBVIRT is 1 where every call of
libvirt's is one, too; or only the one called AT. First comes a line with how many there will be.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.crash.point import Scenario, Verb, sample
from tests.crash.trial import trial

from ai_how.spec.network import DnsMode


def main(name: str, size: str, libvirt: str, only: str = "") -> int:
    mode, verb = name.split("/")
    scenario = Scenario(DnsMode(mode), Verb(verb))
    with tempfile.TemporaryDirectory() as folder, trial(scenario, Path(folder)) as tried:
        points = tried.recorded(libvirt=libvirt == "1" or "call " in only)
        chosen = points if size == "0" else sample(scenario, points, int(size))
        chosen = (only,) if only else chosen
        print(len(chosen), len(points), flush=True)
        for at in chosen:
            print(tried.attempt(at).to_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
