"""What leaves with a node's own address, which no answer comes back to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ai_how.diagnose.facts import Firewall
from ai_how.diagnose.rules.ways import Chain, Way, nat_chains, packets_of
from ai_how.host.packet_walk import End, Packet, Verdict, decide, words


def not_masqueraded(firewall: Firewall, ways: Iterable[Way], uplink: str) -> list[tuple[str, str]]:
    """Networks whose packets shall leave by `uplink`, or the only link that they may use, with the host's address, and
    do not: (network, why).

    libvirt sees to that for forward mode `nat`, for those that our table guards it does: which of them, `loaded` says.
    """
    now, loaded = nat_chains(firewall), nat_chains(Firewall(firewall.loaded or ""))
    found = []
    for way in ways if uplink else ():
        packets = packets_of(way, "out", way.device or uplink)
        ours = way.guarded and not _unchanged(loaded, packets)
        if way.forward != "nat" and not ours:
            continue
        if kinds := _unchanged(now, packets):
            found.append((way.network, _why_unchanged(now, packets, kinds)))
    return found


def _unchanged(chains: Sequence[Chain], packets: Mapping[str, Sequence[Packet]]) -> list[str]:
    """The kinds of packets that no chain gives another address."""
    return [
        kind
        for kind, several in packets.items()
        if not all(any(_may_change(chain, each) for chain in chains) for each in several)
    ]


def _may_change(chain: Chain, packet: Packet) -> bool:
    """Whether the chain gives it another address, unless a rule that is not understood lets it leave before."""
    verdict = _verdict(chain, packet)
    return verdict.end is End.NAT or not verdict.certain


def _verdict(chain: Chain, packet: Packet) -> Verdict:
    return decide(chain.table, chain.name, packet)


def _why_unchanged(chains: Sequence[Chain], packets: Mapping[str, Sequence[Packet]], kinds: Sequence[str]) -> str:
    if not chains:
        return "there is no chain that changes addresses (nat, postrouting)"
    which = "" if len(kinds) == len(packets) else f" ({', '.join(kinds)})"
    packet = packets[kinds[0]][0]
    for chain in chains:
        verdict = _verdict(chain, packet)
        if verdict.rule is not None:
            return f"a rule of {chain.where} lets it leave as it is{which}: {words(verdict.rule)}"
    places = ", ".join(chain.where for chain in chains)
    return f"no rule masquerades {packet['saddr']} on its way to {packet['oifname']}{which}; looked in {places}"
