"""`ai-how why-not`: the way of a packet, and the rule or the missing thing that stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.terminal import note, paint, print_json, say
from ai_how.errors import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai_how.probe.ends import Answered
    from ai_how.probe.path import Hop, Stop

_DIRECTIONS = {"request": "there", "reply": "back", "error": "back, as an error"}


def why_not(
    ctx: typer.Context,
    sender: Annotated[
        str,
        typer.Argument(metavar="FROM", help="A node, a cluster, `host` or `outside`.", show_default=False),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TO[:PORT[/udp]]",
            help="A node, an IPv4 address, a name, `gateway`, `host` or `outside`; without a port it is pinged.",
            show_default=False,
        ),
    ],
) -> int:
    """Send a packet, follow it, and name the rule or the missing thing that stops it.

    Exit code 0 where it passes, and how; 1 where it does not. Needs root: the kernel shows its rules at work to nobody
    else. Nothing of it is left afterwards.
    """
    from ai_how.cli.site import interruptible
    from ai_how.host.libvirt import Libvirt
    from ai_how.host.memory import is_root
    from ai_how.probe.ends import read_target
    from ai_how.probe.ends import why_not as ask

    options: Options = ctx.obj
    to = read_target(target)
    if not is_root():
        raise PrivilegeError(
            "a packet cannot be followed",
            why="this takes a place on the cluster's bridge to send from, and the kernel's trace of its rules",
            remedy=f"Run it as root: sudo ai-how why-not {sender} {target}",
        )
    with interruptible(), Libvirt(options.connect) as libvirt:
        found = ask(libvirt, sender, to)
    if options.json:
        print_json({"from": sender, "to": target, **_json(found)})
    else:
        show(found, sender, target, everything=bool(options.verbose))
    return 0 if found.path.passes else 1


def _json(found: Answered) -> dict[str, object]:
    return {
        "source": None if found.source is None else str(found.source),
        "target": None if found.target is None else str(found.target),
        "notes": list(found.notes),
        **found.path.to_json(),
    }


def show(found: Answered, sender: str, target: str, *, everything: bool) -> None:
    """For people: the verdict, the way, and what would let it pass."""
    path = found.path
    verdict = paint("passes", "green") if path.passes else paint("does not pass", "red")
    say(f"{paint(sender, 'bold')} → {paint(target, 'bold')}: {verdict} ({path.question}: {path.detail})")
    for each in found.notes:
        note(each)
    hops = path.hops if everything or not path.passes else [each for each in path.hops if each.verdict is None]
    for direction, some in _by_direction(hops):
        say(f"  {direction}")
        for hop in some:
            say(f"    {_hop(hop)}")
    if path.end is not None:
        _show_end(path.end)


def _by_direction(hops: Iterable[Hop]) -> Iterator[tuple[str, list[Hop]]]:
    found: dict[str, list[Hop]] = {}
    for each in hops:
        found.setdefault(each.direction, []).append(each)
    for direction, some in found.items():
        yield _DIRECTIONS[direction], some


def _hop(hop: Hop) -> str:
    if hop.verdict is None:
        return f"{hop.where}: {hop.what}"
    return f"{paint(hop.verdict, 'green' if hop.verdict == 'accept' else 'red')} {hop.where}: {hop.what}"


def _show_end(end: Stop) -> None:
    whose = f" ({end.owner})" if end.owner else ""
    say(f"{paint('stopped:', 'red')} {end}{whose}")
    rule = end.rule
    if rule is not None:
        handle = "" if rule.handle is None else f"  # handle {rule.handle}"
        say(f"  rule: {rule}{handle}")
    if end.remedy:
        say("would let it pass:")
        for each in end.remedy:
            say(f"  {paint(each, 'cyan')}")
