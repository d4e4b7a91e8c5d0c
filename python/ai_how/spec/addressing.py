"""Who gets which address. Pure arithmetic on a subnet; addresses are plain numbers inside for speed.

The rules, in the order they apply:

1. The gateway is the first host unless given.
2. `dhcp_start` is subnet + 10, `dhcp_end` is subnet + 254, at most the last host. A gateway inside that range ends it.
3. Where that leaves fewer than 8 addresses before the gateway, or subnet + 10 is no host, the range is the larger side
   of the gateway, without the host next to it that rule 5 gives to the controller.
   A range whose end was not given grows upwards when the nodes need more.
4. An address in the configuration always holds. Then what the host already reserved for a node of that name, while it
   is still possible. The rest is computed:
5. The controller gets the first free host after the gateway (behind the last host it goes on at the first).
6. Compute node i, from 1, owns the slot dhcp_start + i − 1. Fixed and dynamic nodes leave their slot unused.
7. A node whose slot is taken or lies beyond the range gets the highest free address of the range (of the default range,
   where that grew), then the next one above the range, then the next below it where the whole range is by default.

Nodes are served in their order and rule 7 never looks at later ones, so a node at the end comes and goes without
changing the others; rule 4 keeps addresses when a node in the middle goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network

from ai_how.config.terms import MacAddress

#: A default range keeps its documented start if so many addresses lie between it and the gateway.
_ENOUGH = 8


@dataclass(frozen=True, slots=True)
class Space:
    """The hosts of a subnet as numbers, its gateway, and the DHCP range before it grows (`end_given`: may not)."""

    first: int
    last: int
    gateway: int
    start: int
    end: int
    start_given: bool
    end_given: bool

    def holds(self, address: int) -> bool:
        """True for a host address that is not the gateway's."""
        return self.first <= address <= self.last and address != self.gateway


@dataclass(frozen=True, slots=True)
class Wanted:
    """A node before it has an address. `slot` counts compute nodes from 1, None for the controller."""

    name: str
    slot: int | None
    fixed: int | None = None
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Assigned:
    """Addresses by node, in order (None: dynamic), the range's end after growing, and who got none.

    `homeless` are nodes that needed an address and found none; `room` is how many addresses of the range are left for
    the dynamic nodes, which need `dynamic`.
    """

    addresses: tuple[int | None, ...]
    end: int
    homeless: tuple[str, ...]
    room: int
    dynamic: int

    @property
    def complete(self) -> bool:
        """Whether there is an address for every node, the dynamic ones included."""
        return not self.homeless and self.room >= self.dynamic


def hosts(subnet: IPv4Network) -> tuple[int, int]:
    """The first and last host address, without network and broadcast."""
    return int(subnet.network_address) + 1, int(subnet.broadcast_address) - 1


def space(
    subnet: IPv4Network, *, gateway: int | None = None, start: int | None = None, end: int | None = None
) -> Space:
    """Rules 1 to 3. What is given is taken as it is; whether it makes sense is for spec/rules.py to say."""
    first, last = hosts(subnet)
    base = first - 1
    gate = first if gateway is None else gateway
    low, high = _range(first, last, base, gate, start, end)
    return Space(first, last, gate, low, high, start is not None, end is not None)


def _range(first: int, last: int, base: int, gate: int, start: int | None, end: int | None) -> tuple[int, int]:
    if start is not None and end is not None:
        return start, end
    if start is not None:
        high = min(last, base + 254)
        if high < start:  # a start beyond the first /24 of a large subnet
            high = min(last, start + 244)
        return start, gate - 1 if start < gate <= high else high
    low, high = base + 10, min(last, base + 254) if end is None else end
    if end is None and low + _ENOUGH <= gate <= high:
        return low, gate - 1
    if low <= high and not low <= gate <= high:
        return low, high
    if gate <= high and (end is not None or high - gate >= gate - first):
        return min(gate + 2, high), high  # behind the gateway and the controller
    return (first if gate < last else first + 1), min(high, gate - 1)


def assign(pool: Space, nodes: Sequence[Wanted], known: Mapping[str, int]) -> Assigned:
    """Rules 4 to 7. `known` are the addresses that the host reserves for nodes by name."""
    fixed = {node.fixed for node in nodes if node.fixed is not None}
    taken: set[int] = {pool.gateway, *fixed}
    kept: dict[str, int] = {}
    if known:
        for node in nodes:
            before = known.get(node.name)
            if node.fixed is not None or node.dynamic or before is None or before in taken:
                continue
            if pool.holds(before):
                kept[node.name] = before
                taken.add(before)
    limit = pool.end if pool.end_given else _ceiling(pool)
    spare = _spare(pool, taken, limit)
    addresses: list[int | None] = []
    homeless: list[str] = []
    dynamic = 0
    for node in nodes:
        address: int | None
        if node.dynamic:
            addresses.append(None)
            dynamic += 1
            continue
        if node.fixed is not None:
            addresses.append(node.fixed)
            continue
        address = kept.get(node.name)
        if address is None:
            address = _own(pool, node.slot, taken, limit)
            if address is None:
                address = next(spare, None)
                if address is None:
                    homeless.append(node.name)
            if address is not None:
                taken.add(address)
        addresses.append(address)
    return _grown(pool, nodes, addresses, taken, limit, homeless, dynamic)


def _ceiling(pool: Space) -> int:
    """How far the range may grow: to the last host, but not over the gateway."""
    return pool.gateway - 1 if pool.start < pool.gateway <= pool.last else pool.last


def _own(pool: Space, slot: int | None, taken: set[int], limit: int) -> int | None:
    """Rules 5 and 6; None where the node's own place is not to be had."""
    if slot is not None:
        address = pool.start + slot - 1
        return address if address <= limit and address not in taken else None
    for first, last in ((pool.gateway + 1, pool.last), (pool.first, pool.gateway - 1)):
        for address in range(first, last + 1):
            if address not in taken:
                return address
    return None


def _spare(pool: Space, taken: set[int], limit: int) -> Iterator[int]:
    """Rule 7. A running search: what it passed over stays taken."""
    parts = [range(pool.end, pool.start - 1, -1), range(pool.end + 1, limit + 1)]
    if not pool.end_given and not pool.start_given:
        parts += [range(limit + 1, pool.last + 1), range(pool.start - 1, pool.first - 1, -1)]
    for part in parts:
        for address in part:
            if address not in taken:
                yield address


def _grown(
    pool: Space,
    nodes: Sequence[Wanted],
    addresses: list[int | None],
    taken: set[int],
    limit: int,
    homeless: list[str],
    dynamic: int,
) -> Assigned:
    """Let the range cover the slots it grew over, and leave room for dynamic nodes."""
    end = pool.end
    if not pool.end_given:
        used = [a for node, a in zip(nodes, addresses, strict=True) if a is not None and node.fixed is None]
        end = max(end, max((a for a in used if a <= limit), default=end))
    inside = sum(1 for address in taken if pool.start <= address <= end)
    room = max(0, end - pool.start + 1) - inside
    if not pool.end_given:
        while room < dynamic and end < limit:
            end += 1
            room += end not in taken
    return Assigned(tuple(addresses), end, tuple(homeless), room, dynamic)


# ---- MAC addresses ----------------------------------------------------------------------------------------------


def derived_mac(cluster: str, thing: str, taken: set[MacAddress]) -> MacAddress:
    """52:54:00 (the prefix QEMU uses) and three bytes of SHA-256 over the names; the next hash where that is taken."""
    seed = f"{cluster}/{thing}"
    for attempt in range(1 << 16):
        digest = sha256(seed.encode() if attempt == 0 else f"{seed}#{attempt}".encode()).hexdigest()
        mac = MacAddress(f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}")
        if mac not in taken:
            return mac
    raise AssertionError(f"no free MAC address for {thing}")


def assign_macs(
    cluster: str,
    names: Sequence[str],
    explicit: Mapping[str, MacAddress],
    known: Mapping[str, MacAddress],
    reserved: Iterable[MacAddress] = (),
) -> tuple[MacAddress, ...]:
    """A MAC for every node in order: the configuration's, else the one the host knows, else a derived one."""
    taken: set[MacAddress] = {*explicit.values(), *reserved}
    kept: dict[str, MacAddress] = {}
    for name in names:
        before = known.get(name)
        if name not in explicit and before is not None and before not in taken:
            kept[name] = before
            taken.add(before)
    macs: list[MacAddress] = []
    for name in names:
        mac = explicit.get(name) or kept.get(name)
        if mac is None:
            mac = derived_mac(cluster, name, taken)
            taken.add(mac)
        macs.append(mac)
    return tuple(macs)
