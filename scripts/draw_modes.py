"""Draws docs/modes/MODE.svg: who reaches whom in each DNS mode, and who is asked for which names.

`python scripts/draw_modes.py` writes the pictures, `--check` says which ones are not what it would write. A picture
brings its own background, so it is the same on light and dark pages; what is stopped is dashed and ends with a cross,
so it can be read without colours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "modes"


@dataclass(frozen=True, slots=True)
class Way:
    """A direction in which packets pass (`open`) or are stopped."""

    open: bool
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """One place on the right, with its ways from the left (`out`) and to the left (`back`)."""

    place: str
    detail: str
    out: Way | None = None
    back: Way | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """One mode."""

    mode: str
    packets: Sequence[Row]
    names: Sequence[Row]


def yes(label: str) -> Way:
    return Way(True, label)


def no(label: str) -> Way:
    return Way(False, label)


GATEWAY = Row(
    "its own gateway", "on the host", yes("DHCP, DNS, ping; allow_host_ports"), yes("the host reaches its nodes")
)
HOST = Row("services of the host", "other ports and addresses", no("rejected"))
CONTAINERS = Row("containers and other networks", "behind docker0, virbr0 …", no("rejected"), no("dropped"))
INTERNET = Row("internet", "by the uplink", yes("NAT; egress, block_networks"), no("answers only; expose, allow_from"))
LAN = Row("machines of the LAN", "", yes("NAT; egress, block_networks"), no("answers only; expose, allow_from"))

APART = (
    Row("nodes of every other cluster", "whatever its mode", no("rejected"), no("rejected")),
    Row("gateways of other clusters", "", no("rejected, ARP unanswered")),
)


def together(mode: str) -> tuple[Row, ...]:
    return (
        Row(f"nodes of {mode} clusters", "on this host", yes("no NAT"), yes("no NAT")),
        Row("their gateways", "", yes("ping")),
        Row("nodes of other clusters", "in other modes", no("rejected"), no("rejected")),
    )


QUESTIONS = Row("nodes of A", "", back=yes("every question"))
OUTSIDE = Row("other dns_servers", "8.8.8.8, 1.1.1.1 …", yes("all names of no cluster"))
UNTOLD = Row("the host's resolver", "", back=no("asks others"))

PICTURES = (
    Picture("isolated", (GATEWAY, HOST, CONTAINERS, *APART, INTERNET, LAN), (QUESTIONS, OUTSIDE, UNTOLD)),
    Picture(
        "shared_dns",
        (GATEWAY, HOST, CONTAINERS, *together("shared_dns"), INTERNET, LAN),
        (
            QUESTIONS,
            Row("gateways of peers", "clusters of the same mode", yes("their zones"), yes("the zones of A")),
            OUTSIDE,
            Row("the host's resolver", "systemd-resolved, dnsmasq …", back=yes("the zones of A")),
        ),
    ),
    Picture(
        "routed",
        (
            GATEWAY,
            HOST,
            CONTAINERS,
            *together("routed"),
            Row("declared networks", "network.routes", yes("no NAT"), yes("no NAT")),
            Row("internet", "by the uplink", yes("NAT, or none with nat: false"), INTERNET.back),
            Row("machines of the LAN", "", yes("NAT, or none with nat: false"), LAN.back),
        ),
        (
            QUESTIONS,
            Row("gateways of peers", "clusters of the same mode", yes("their zones"), yes("the zones of A")),
            OUTSIDE,
            UNTOLD,
        ),
    ),
    Picture(
        "service_discovery",
        (
            GATEWAY,
            Row("Consul", "on the host", back=yes("checks of the nodes")),
            HOST,
            CONTAINERS,
            *APART,
            INTERNET,
            LAN,
        ),
        (QUESTIONS, Row("Consul", "dns_port", yes(".consul")), OUTSIDE, UNTOLD),
    ),
)

# Pixels.
WIDTH, EDGE = 900, 16
LEFT = 140  # right side of the place on the left
RIGHT = 636  # left side of the places on the right
WALL, THICK = 372, 20  # where the rules are
STEP, BOX = 50, 42  # from row to row; height of a place
HEAD = 44  # title of a part
CROSS = 5

STYLE = """\
text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.place { font-weight: 600 }
.small, .label { font-size: 12px; fill: #57606a }
.box { fill: #f6f8fa; stroke: #8c959f }
.wall { fill: #eaeef2; stroke: #8c959f }
.open { stroke: #1a7f37; stroke-width: 2; fill: none }
.shut { stroke: #cf222e; stroke-width: 2; fill: none; stroke-dasharray: 5 4 }
.cross { stroke: #cf222e; stroke-width: 3; fill: none }
.head { fill: #1a7f37 }"""


def draw(picture: Picture) -> str:
    """The picture as SVG."""
    second = EDGE + HEAD + STEP * len(picture.packets) + 10
    height = second + HEAD + STEP * len(picture.names) + 34
    title = picture.mode
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>dns_mode {title}: who reaches whom, and who is asked for names</title>",
        f"<desc>{escape('; '.join(said(picture)))}.</desc>",
        f"<style>\n{STYLE}\n</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="#d0d7de"/>',
        *part(f"{title}: packets", EDGE, "nodes of A", "a cluster", picture.packets, "the rules of the host"),
        *part("names: who asks whom", second, "gateway of A", "dnsmasq", picture.names, ""),
        *legend(height - 18),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def said(picture: Picture) -> Iterator[str]:
    """The same in words, for those who do not see it."""
    for left, rows in (("nodes of A", picture.packets), ("gateway of A", picture.names)):
        for row in rows:
            for way, frm, to in ((row.out, left, row.place), (row.back, row.place, left)):
                if way is not None:
                    yield f"{frm} to {to}: {'passes' if way.open else 'stopped'} ({way.label})"


def part(title: str, top: int, name: str, detail: str, rows: Sequence[Row], wall: str) -> Iterator[str]:
    """The place on the left, the wall, and the rows."""
    yield text(EDGE, top + 18, title, "title")
    first, height = top + HEAD, STEP * len(rows) - (STEP - BOX)
    yield from place(EDGE, first, LEFT - EDGE, height, name, detail)
    if wall:
        yield box(WALL, first - 6, THICK, height + 12, "wall")
        yield text(WALL, first - 14, wall, "small")
    for number, row in enumerate(rows):
        y = first + STEP * number
        yield from place(RIGHT, y, WIDTH - EDGE - RIGHT, BOX, row.place, row.detail)
        both = row.out is not None and row.back is not None
        if row.out is not None:
            here = y + (16 if both else 25)
            yield text(LEFT + 8, here - 4, row.out.label, "label")
            yield from line(LEFT, WALL if wall and not row.out.open else RIGHT, here, row.out)
        if row.back is not None:
            here = y + (36 if both else 25)
            yield text(RIGHT - 8, here - 4, row.back.label, "label", anchor="end")
            yield from line(RIGHT, WALL + THICK if wall and not row.back.open else LEFT, here, row.back)


def line(start: int, end: int, y: int, way: Way) -> Iterator[str]:
    """An arrow, or a dashed line with a cross at its end."""
    towards = 1 if end > start else -1
    if way.open:
        yield f'<path class="open" d="M{start} {y}H{end - 8 * towards}"/>'
        yield f'<path class="head" d="M{end} {y}l{-10 * towards} -5v10z"/>'
        return
    end -= (CROSS + 3) * towards
    yield f'<path class="shut" d="M{start} {y}H{end - CROSS * towards}"/>'
    yield cross(end, y)


def cross(x: int, y: int) -> str:
    size = 2 * CROSS
    return f'<path class="cross" d="M{x - CROSS} {y - CROSS}l{size} {size}m0 -{size}l-{size} {size}"/>'


def place(x: int, y: int, width: int, height: int, name: str, detail: str) -> Iterator[str]:
    middle = y + height // 2
    yield box(x, y, width, height, "box")
    yield text(x + 10, middle - 3 if detail else middle + 5, name, "place")
    if detail:
        yield text(x + 10, middle + 13, detail, "small")


def box(x: int, y: int, width: int, height: int, kind: str) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>'


def text(x: int, y: int, words: str, kind: str, *, anchor: str = "start") -> str:
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x}" y="{y}"{end}>{escape(words)}</text>'


def legend(y: int) -> Iterator[str]:
    yield from line(EDGE, EDGE + 50, y - 4, yes(""))
    yield text(EDGE + 58, y, "passes, with its answers", "label")
    yield from line(EDGE + 240, EDGE + 290, y - 4, no(""))
    yield text(EDGE + 298, y, "new connections are stopped; after “;” the fields that change it", "label")


def differing(pictures: Iterable[Picture]) -> list[Path]:
    """The files that are not what would be drawn."""
    return [path for path, drawn in files(pictures) if not path.exists() or path.read_text(encoding="utf-8") != drawn]


def files(pictures: Iterable[Picture]) -> Iterator[tuple[Path, str]]:
    for each in pictures:
        yield FOLDER / f"{each.mode}.svg", draw(each)


def main(arguments: Sequence[str]) -> int:
    """Write the pictures, or check them; the exit code."""
    if "--check" in arguments:
        old = differing(PICTURES)
        for path in old:
            print(f"{path}: error: not what scripts/draw_modes.py draws; run it")
        return 1 if old else 0
    for path, drawn in files(PICTURES):
        path.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
