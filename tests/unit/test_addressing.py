"""Addresses: the rules of spec/addressing.py, by example and as properties of any subnet and any nodes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.config.terms import MacAddress
from ai_how.spec.addressing import Assigned, Space, Wanted, assign, assign_macs, hosts, space


def number(text: str) -> int:
    return int(IPv4Address(text))


def text(address: int | None) -> str | None:
    return None if address is None else str(IPv4Address(address))


def compute(count: int, **fixed: str) -> list[Wanted]:
    """`count` compute nodes c1, c2, …, some with a fixed address or "DHCP"."""
    return [_node(f"c{i}", i, fixed.get(f"c{i}")) for i in range(1, count + 1)]


def _node(name: str, slot: int | None, fixed: str | None = None) -> Wanted:
    dynamic = fixed == "DHCP"
    return Wanted(name, slot, number(fixed) if fixed and not dynamic else None, dynamic)


CONTROLLER = Wanted("controller", None)


def addresses(pool: Space, nodes: list[Wanted], known: dict[str, str] | None = None) -> dict[str, str | None]:
    result = assign(pool, nodes, {name: number(value) for name, value in (known or {}).items()})
    return dict(zip((node.name for node in nodes), map(text, result.addresses), strict=True))


# ---- by example -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subnet", "given_", "gateway", "start", "end"),
    [
        ("192.168.100.0/24", {}, "192.168.100.1", "192.168.100.10", "192.168.100.254"),
        ("10.0.0.0/8", {}, "10.0.0.1", "10.0.0.10", "10.0.0.254"),
        ("10.0.0.0/23", {}, "10.0.0.1", "10.0.0.10", "10.0.0.254"),
        ("10.0.0.0/25", {}, "10.0.0.1", "10.0.0.10", "10.0.0.126"),
        ("10.0.0.128/25", {}, "10.0.0.129", "10.0.0.138", "10.0.0.254"),
        ("10.0.0.0/27", {}, "10.0.0.1", "10.0.0.10", "10.0.0.30"),
        ("10.0.0.0/28", {}, "10.0.0.1", "10.0.0.10", "10.0.0.14"),
        ("10.0.0.0/29", {}, "10.0.0.1", "10.0.0.3", "10.0.0.6"),
        ("10.0.0.0/29", {"gateway": "10.0.0.6"}, "10.0.0.6", "10.0.0.2", "10.0.0.5"),
        ("10.0.0.0/29", {"gateway": "10.0.0.5"}, "10.0.0.5", "10.0.0.1", "10.0.0.4"),
        ("10.0.0.0/28", {"gateway": "10.0.0.12"}, "10.0.0.12", "10.0.0.1", "10.0.0.11"),
        ("10.0.0.0/28", {"gateway": "10.0.0.14"}, "10.0.0.14", "10.0.0.2", "10.0.0.13"),
        ("10.0.0.0/24", {"gateway": "10.0.0.19", "end": "10.0.0.20"}, "10.0.0.19", "10.0.0.20", "10.0.0.20"),
        ("10.0.0.0/24", {"gateway": "10.0.0.254"}, "10.0.0.254", "10.0.0.10", "10.0.0.253"),
        ("10.0.0.0/24", {"gateway": "10.0.0.100"}, "10.0.0.100", "10.0.0.10", "10.0.0.99"),
        ("10.0.0.0/24", {"gateway": "10.0.0.10"}, "10.0.0.10", "10.0.0.12", "10.0.0.254"),
        ("10.0.0.0/24", {"gateway": "10.0.0.12"}, "10.0.0.12", "10.0.0.14", "10.0.0.254"),
        ("10.0.0.0/24", {"start": "10.0.0.200"}, "10.0.0.1", "10.0.0.200", "10.0.0.254"),
        ("10.0.0.0/16", {"start": "10.0.9.0"}, "10.0.0.1", "10.0.9.0", "10.0.9.244"),
        ("10.0.0.0/24", {"end": "10.0.0.60"}, "10.0.0.1", "10.0.0.10", "10.0.0.60"),
        ("10.0.0.0/24", {"end": "10.0.0.8"}, "10.0.0.1", "10.0.0.3", "10.0.0.8"),
        ("10.0.0.0/24", {"start": "10.0.0.50", "gateway": "10.0.0.60"}, "10.0.0.60", "10.0.0.50", "10.0.0.59"),
    ],
)
def test_gateway_and_range_by_default(subnet: str, given_: dict[str, str], gateway: str, start: str, end: str) -> None:
    pool = space(IPv4Network(subnet), **{name: number(value) for name, value in given_.items()})
    assert (text(pool.gateway), text(pool.start), text(pool.end)) == (gateway, start, end)


NET24 = space(IPv4Network("192.168.100.0/24"))


def test_the_documented_cluster_has_2_10_11() -> None:
    assert addresses(NET24, [CONTROLLER, *compute(2)]) == {
        "controller": "192.168.100.2",
        "c1": "192.168.100.10",
        "c2": "192.168.100.11",
    }


def test_a_fixed_node_leaves_its_slot_unused() -> None:
    got = addresses(NET24, compute(3, c2="192.168.100.77"))
    assert got == {"c1": "192.168.100.10", "c2": "192.168.100.77", "c3": "192.168.100.12"}


def test_a_displaced_node_takes_the_top_of_the_range() -> None:
    got = addresses(NET24, compute(3, c3="192.168.100.10"))
    assert got == {"c1": "192.168.100.254", "c2": "192.168.100.11", "c3": "192.168.100.10"}


def test_the_controller_takes_the_first_free_host_after_the_gateway() -> None:
    assert addresses(NET24, [CONTROLLER, *compute(1, c1="192.168.100.2")])["controller"] == "192.168.100.3"
    last = space(IPv4Network("192.168.100.0/24"), gateway=number("192.168.100.254"))
    assert addresses(last, [CONTROLLER])["controller"] == "192.168.100.1"


def test_a_dynamic_node_has_no_address_and_leaves_its_slot_unused() -> None:
    assert addresses(NET24, compute(2, c1="DHCP")) == {"c1": None, "c2": "192.168.100.11"}


def test_what_the_host_remembers_wins_over_slots() -> None:
    got = addresses(NET24, [_node("a", 1), _node("c", 2)], {"a": "192.168.100.10", "c": "192.168.100.12"})
    assert got == {"a": "192.168.100.10", "c": "192.168.100.12"}


@pytest.mark.parametrize("before", ["192.168.101.5", "192.168.100.1", "192.168.100.0", "192.168.100.255"])
def test_what_the_host_remembers_is_forgotten_where_it_is_no_longer_possible(before: str) -> None:
    assert addresses(NET24, compute(1), {"c1": before}) == {"c1": "192.168.100.10"}


def test_the_configuration_wins_over_what_the_host_remembers() -> None:
    got = addresses(NET24, compute(1, c1="192.168.100.20"), {"c1": "192.168.100.30"})
    assert got == {"c1": "192.168.100.20"}


def test_one_address_remembered_for_two_or_given_to_another_is_used_once() -> None:
    got = addresses(NET24, compute(3, c1="192.168.100.20"), {"c2": "192.168.100.20", "c3": "192.168.100.30"})
    assert got == {"c1": "192.168.100.20", "c2": "192.168.100.11", "c3": "192.168.100.30"}
    got = addresses(NET24, compute(2), {"c1": "192.168.100.30", "c2": "192.168.100.30"})
    assert got == {"c1": "192.168.100.30", "c2": "192.168.100.11"}


def test_a_default_range_grows_with_the_nodes() -> None:
    pool = space(IPv4Network("10.0.0.0/16"))
    result = assign(pool, compute(10_000), {})
    assert not result.homeless
    assert text(result.end) == "10.0.39.25"
    assert text(result.addresses[-1]) == "10.0.39.25"


def test_a_given_range_does_not_grow() -> None:
    pool = space(IPv4Network("10.0.0.0/16"), end=number("10.0.0.19"))
    result = assign(pool, compute(12), {})
    assert result.homeless == ("c11", "c12")
    assert text(result.end) == "10.0.0.19"


def test_a_default_range_grows_for_dynamic_nodes() -> None:
    nodes = [Wanted(f"d{i}", i, dynamic=True) for i in range(1, 301)]
    result = assign(space(IPv4Network("10.0.0.0/16")), nodes, {})
    assert result.room == result.dynamic == 300
    assert text(result.end) == "10.0.1.53"


@pytest.mark.parametrize("prefix", [24, 27, 28, 29])
def test_every_host_of_a_small_subnet_can_be_used(prefix: int) -> None:
    subnet = IPv4Network(f"10.0.0.0/{prefix}")
    first, last = hosts(subnet)
    nodes = [CONTROLLER, *compute(last - first - 1)]
    result = assign(space(subnet), nodes, {})
    assert not result.homeless
    assert len(set(result.addresses)) == last - first


# ---- properties -------------------------------------------------------------------------------------------------


@st.composite
def pools(draw: st.DrawFn) -> Space:
    prefix = draw(st.integers(8, 29))
    base = draw(st.integers(0, (1 << prefix) - 1)) << (32 - prefix)
    subnet = IPv4Network((base, prefix))
    first, last = hosts(subnet)
    near = st.integers(first, min(last, first + 300)) | st.integers(max(first, last - 300), last)
    gateway = draw(st.none() | near)
    return space(subnet, gateway=gateway)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Space, list[Wanted]]:
    """A pool and nodes that fit it, some fixed, some dynamic, perhaps a controller."""
    pool = draw(pools())
    room = pool.last - pool.first
    count = draw(st.integers(0, min(room, 40)))
    near = st.integers(pool.first, min(pool.last, pool.first + 60))
    fixed = draw(st.lists((near | st.integers(pool.first, pool.last)).filter(pool.holds), unique=True, max_size=count))
    kinds = draw(st.permutations([*fixed, *["auto"] * (count - len(fixed))]))
    nodes: list[Wanted] = []
    for i, kind in enumerate(kinds):
        slot = None if i == 0 and draw(st.booleans()) else i + 1
        dynamic = kind == "auto" and draw(st.integers(0, 5)) == 0
        nodes.append(Wanted(f"n{i}", slot, kind if isinstance(kind, int) else None, dynamic))
    return pool, nodes


def by_name(nodes: list[Wanted], result: Assigned) -> dict[str, int | None]:
    return dict(zip((node.name for node in nodes), result.addresses, strict=True))


@given(situations())
def test_addresses_are_unique_hosts_of_the_subnet_and_never_the_gateways(case: tuple[Space, list[Wanted]]) -> None:
    pool, nodes = case
    result = assign(pool, nodes, {})
    got = [address for address in result.addresses if address is not None]
    assert len(got) == len(set(got))
    assert all(pool.first <= address <= pool.last and address != pool.gateway for address in got)
    assert all(
        node.fixed in (None, address) and (address is None) == (node.dynamic or node.name in result.homeless)
        for node, address in zip(nodes, result.addresses, strict=True)
    )


@given(situations())
def test_the_range_lies_in_the_subnet_and_beside_the_gateway(case: tuple[Space, list[Wanted]]) -> None:
    pool, nodes = case
    result = assign(pool, nodes, {})
    assert pool.first <= pool.start <= pool.end <= result.end <= pool.last
    assert not pool.start <= pool.gateway <= result.end


@given(situations())
def test_every_node_that_fits_gets_an_address(case: tuple[Space, list[Wanted]]) -> None:
    pool, nodes = case
    assert assign(pool, nodes, {}).homeless == ()


@given(situations(), st.integers(0, 40))
def test_nodes_at_the_end_come_and_go_without_changing_the_others(case: tuple[Space, list[Wanted]], keep: int) -> None:
    pool, nodes = case
    fewer = nodes[:keep] + [node for node in nodes[keep:] if node.fixed is not None]
    before, after = by_name(fewer, assign(pool, fewer, {})), by_name(nodes, assign(pool, nodes, {}))
    assert {name: after[name] for name in before} == before


@given(situations(), st.sets(st.integers(0, 40)), st.lists(st.booleans(), max_size=5))
def test_with_memory_any_node_comes_and_goes_without_changing_the_others(
    case: tuple[Space, list[Wanted]], gone: set[int], new: list[bool]
) -> None:
    """Named nodes in a list: those after the gap move up a place, and yet keep their addresses."""
    pool, nodes = case
    first = by_name(nodes, assign(pool, nodes, {}))
    memory = {name: address for name, address in first.items() if address is not None}
    left = [node for i, node in enumerate(nodes) if i not in gone]
    room = pool.last - pool.first - len(left)
    added = [Wanted(f"new{i}", None) for i, _ in enumerate(new[: max(0, room)])]
    slots = [
        Wanted(node.name, None if node.slot is None else i + 1, node.fixed, node.dynamic)
        for i, node in enumerate([*added, *left])
    ]
    second = by_name(slots, assign(pool, slots, memory))
    assert {node.name: second[node.name] for node in left} == {node.name: first[node.name] for node in left}
    got = [address for address in second.values() if address is not None]
    assert len(got) == len(set(got))


# ---- MACs -------------------------------------------------------------------------------------------------------

NAMES = [f"hpc-compute-{i:02d}" for i in range(1, 10_001)]


def test_macs_of_ten_thousand_nodes_are_unique_unicast_and_local() -> None:
    macs = assign_macs("hpc", NAMES, {}, {})
    assert len(set(macs)) == len(NAMES)
    assert all(mac.startswith("52:54:00:") for mac in macs)


def test_macs_do_not_change_when_nodes_are_added_at_the_end() -> None:
    assert assign_macs("hpc", NAMES, {}, {})[:5000] == assign_macs("hpc", NAMES[:5000], {}, {})


def test_macs_of_two_clusters_differ() -> None:
    assert assign_macs("a", ["node"], {}, {}) != assign_macs("b", ["node"], {}, {})


def test_a_given_mac_wins_and_a_derived_one_gives_way() -> None:
    (derived,) = assign_macs("hpc", ["one"], {}, {})
    one, two = assign_macs("hpc", ["one", "two"], {"two": derived}, {})
    assert two == derived
    assert one != derived
    assert one.startswith("52:54:00:")


def test_a_known_mac_is_kept_unless_given_to_another() -> None:
    known = MacAddress("52:54:00:aa:bb:cc")
    assert assign_macs("hpc", ["one"], {}, {"one": known}) == (known,)
    one, two = assign_macs("hpc", ["one", "two"], {"two": known}, {"one": known})
    assert two == known
    assert one != known
