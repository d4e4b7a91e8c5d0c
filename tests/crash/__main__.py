"""`scripts/crash`: kill ai-how at every instant of its verbs; the next `up` and `destroy` must know what to do."""

from __future__ import annotations

import argparse
import shlex
import sys
import threading
import time
from collections.abc import Sequence

from tests.crash.point import Point, Tried, Verb, is_of_libvirt
from tests.crash.run import Result, Wanted, attempt
from tests.fetched import CONSUL, RESOLVERS, fetched

from ai_how import lab
from ai_how.spec.network import DnsMode

#: How many points `--fast` tries of each scenario.
FAST = 3


def main(words: Sequence[str]) -> int:
    """Exit code 0 where every point was survived, 1 where one was not, 3 where no lab can be opened."""
    chosen = _arguments(words)
    if (problem := lab.unavailable()) is not None:
        print(problem, file=sys.stderr)
        return 3
    fetched(CONSUL, suite="bullseye")
    fetched(RESOLVERS)
    modes, verbs = tuple(chosen.mode or DnsMode), tuple(chosen.verb or Verb)
    if chosen.point:
        point = Point.parse(chosen.point)
        wanted = [
            Wanted(point.scenario.mode, (point.scenario.verb,), only=(str(point),), libvirt=is_of_libvirt(point.at))
        ]
    elif chosen.fast:
        wanted = [Wanted(each, verbs, size=FAST, alternate=True) for each in modes]
    else:
        wanted = [Wanted(each, verbs, size=chosen.sample, libvirt=chosen.deep) for each in modes]
    begin = time.monotonic()
    results = attempt(wanted, _Line().say, jobs=chosen.jobs)
    _report(results, time.monotonic() - begin)
    return 0 if all(each.fine for each in results) else 1


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("scripts/crash", description=__doc__)
    parser.add_argument(
        "--fast", action="store_true", help=f"try {FAST} points of each verb and mode, the same each time"
    )
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="try N points of each verb and mode")
    parser.add_argument(
        "--deep", action="store_true", help="also kill before and within every call of libvirt that changes something"
    )
    parser.add_argument("--verb", type=Verb, action="append", choices=[*Verb], metavar="VERB", help="only this verb")
    parser.add_argument(
        "--mode", type=DnsMode, action="append", choices=[*DnsMode], metavar="MODE", help="only this mode"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many labs at once (2); each has one mode")
    parser.add_argument("--point", default="", metavar="NAME", help="only this point, by the name that a failure has")
    return parser.parse_args(words)


class _Line:
    """The progress: one line, over again on a terminal, each half minute elsewhere; one for each point not survived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin = self._next = time.monotonic()
        self._done: dict[str, tuple[int, int]] = {}
        self._lost = 0

    def say(self, tried: Tried, number: int, of: int) -> None:
        with self._lock:
            self._done[tried.point.partition("/")[0]] = (number, of)
            self._lost += bool(tried.wrong)
            if tried.wrong:
                _over(f"not survived: {tried.point}\n")
            points = sum(each for each, _ in self._done.values())
            under_way = ", ".join(f"{name} {n}/{of}" for name, (n, of) in self._done.items() if n < of)
            now = time.monotonic()
            if sys.stderr.isatty() or now > self._next:
                _over(f"{now - self._begin:.0f} s: {points} points, {self._lost} not survived; {under_way}")
                self._next = now + 30
                if not sys.stderr.isatty():
                    _over("\n")


def _over(text: str) -> None:
    print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="", file=sys.stderr, flush=True)


def _report(results: Sequence[Result], seconds: float) -> None:
    _over("")
    for result in results:
        for each in result.failed:
            print(f"not survived: {each.point}")
            print("    " + each.wrong.replace("\n", "\n    "))
            print(f"    again: scripts/crash --point {shlex.quote(each.point)}")
        if result.broken:
            print(f"{result.wanted.mode} broke off:\n    " + result.broken.replace("\n", "\n    "))
    print(table(results, seconds))


def table(results: Sequence[Result], seconds: float) -> str:
    """The count of every verb and mode, and of all."""
    counts = [count for result in results for count in result.counts().items()]
    lines = [
        f"{scenario!s:27} points tried {tried:4}, survived {survived:4}  (it has {known})"
        for scenario, (tried, survived, known) in counts
    ]
    total = [sum(numbers) for numbers in zip(*(count for _, count in counts), strict=True)]
    return "\n".join([*lines, f"{'all':27} points tried {total[0]:4}, survived {total[1]:4}  ({seconds:.0f} s)"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
