"""The part of the harness that runs inside a lab: one DNS mode, what is wanted of it as JSON on standard input.

First come two lines: all points that there are, and those that will be tried. Then one for each as it is tried. It ends
with the first that is not survived: the lab is no longer clean.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.crash.point import Point, Recovery, Scenario, Verb, sample
from tests.crash.trial import trial

from ai_how.spec.network import DnsMode


def main() -> int:
    wanted = json.load(sys.stdin)
    mode = DnsMode(wanted["mode"])
    with tempfile.TemporaryDirectory() as folder, trial(mode, Path(folder)) as tried:
        seen = tried.record([Verb(each) for each in wanted["verbs"]], libvirt=wanted["libvirt"])
        known = [Point(Scenario(mode, verb), at) for verb, instants in seen.items() for at in instants]
        chosen = [Point.parse(each) for each in wanted["only"]] or known
        if wanted["size"]:
            scenarios = [Scenario(mode, verb) for verb in seen]
            chosen = [Point(each, at) for each in scenarios for at in sample(each, seen[each.verb], wanted["size"])]
        for points in (known, chosen):
            print(json.dumps([str(each) for each in points]), flush=True)
        for number, point in enumerate(chosen):
            ways = list(Recovery)
            result = tried.attempt(point, [ways[number % 2]] if wanted["alternate"] else ways)
            print(result.to_json(), flush=True)
            if result.wrong:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
