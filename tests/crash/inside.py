"""The part of the harness that runs inside a lab: one scenario, a line of JSON for every point as it is tried.

`python -m tests.crash.inside MODE/VERB LIBVIRT SIZE`: SIZE points of it (0: all), and with LIBVIRT 1 every call of
libvirt's is one, too. `… MODE/VERB LIBVIRT 0 AT…`: those called so. First comes a line with all that it has, and one
with those that will be tried. It ends with the first that is not survived: the lab is no longer clean.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.crash.point import Scenario, sample
from tests.crash.trial import trial


def main(name: str, libvirt: str, size: str, *only: str) -> int:
    scenario = Scenario.parse(name)
    with tempfile.TemporaryDirectory() as folder, trial(scenario, Path(folder)) as tried:
        points = tried.recorded(libvirt=libvirt == "1")
        chosen = only or (points if size == "0" else sample(scenario, points, int(size)))
        for each in (points, chosen):
            print(json.dumps(each), flush=True)
        for at in chosen:
            result = tried.attempt(at)
            print(result.to_json(), flush=True)
            if result.wrong:
                return 0
        tried.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
