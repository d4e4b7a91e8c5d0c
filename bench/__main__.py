"""The entry: which parts, in a lab, and where the numbers go. Numbers never fail it; they are for reading."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ai_how import lab
from ai_how.errors import AiHowError
from ai_how.images import build_micro_image
from bench.report import Report

PARTS = ("up", "validate", "idle", "start", "firewall", "traffic", "add", "plan", "doctor")


def main() -> int:
    """Read the command line, measure inside a lab, print the table, write the JSON; the exit code."""
    arguments = _parser().parse_args()
    if not lab.inside():
        with tempfile.TemporaryDirectory(prefix="ai-how-bench-") as folder:
            image = arguments.image
            if image is None and {"up", "idle", "plan", "doctor"} & set(arguments.only or PARTS):
                image = build_micro_image(Path(folder) / "micro.qcow2", progress=_say).path
            more = [] if image is None else ["--image", str(image)]
            internet = bool({"traffic", "doctor"} & set(arguments.only or PARTS))
            return lab.run([sys.executable, "-m", "bench", *sys.argv[1:], *more], internet=internet)
    report = measure(arguments.only or PARTS, quick=arguments.quick, image=arguments.image)
    print(report.table())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return 0


def measure(parts: Sequence[str], *, quick: bool, image: Path | None) -> Report:
    """Measure these parts inside a lab. `up`, `idle`, `plan` and `doctor` need the micro image."""
    from bench import add, clusters, doctor, firewall, idle, plan, start, traffic, up, validate

    report = Report()
    for part in parts:
        _say(f"measuring {part}")
        match part:
            case "up" if image is not None:
                up.measure(report, image, sizes=up.SIZES[:-1] if quick else up.SIZES, rounds=1 if quick else 5)
            case "validate":
                validate.measure(report, sizes=validate.SIZES[: 2 if quick else 3], rounds=3 if quick else 7)
            case "idle" if image is not None:
                idle.measure(report, image, size=100 if quick else idle.SIZE, rounds=3 if quick else 7)
            case "start":
                start.measure(report, rounds=5 if quick else 25)
            case "firewall":
                firewall.measure(report, nodes=clusters.NODES, rounds=3 if quick else 9)
            case "traffic":
                traffic.measure(report, nodes=clusters.NODES, load=traffic.QUICK if quick else traffic.FULL)
            case "add":
                add.measure(report, rounds=3 if quick else 9)
            case "plan" if image is not None:
                plan.measure(report, image, sizes=plan.SIZES[: 2 if quick else 3], rounds=3 if quick else 7)
            case "doctor" if image is not None:
                doctor.measure(report, image, nodes=2 if quick else doctor.NODES, rounds=3 if quick else 9)
            case _:
                raise SystemExit(f"part {part} needs --image inside a lab")
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/run", description="What ai-how takes, beside a floor.")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: a few minutes")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--image", type=Path, metavar="PATH", help="a guest image, instead of building the micro image")
    return parser


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AiHowError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
