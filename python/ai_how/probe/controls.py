"""What other expectations rest on: that the sender sends, that the target is there, that what leaves is seen. Pure."""

from __future__ import annotations

from ai_how.probe.actions import Action, Leaving, Ping, Talk
from ai_how.probe.expectations import (
    HOST,
    LAN,
    Expect,
    Expectation,
    Outside,
    Side,
    address_of,
    forwards,
    leaves,
)
from ai_how.spec.node import Node


def pair(cluster: Side, *, reverse: bool = False) -> tuple[Node, Node]:
    """Two nodes of it: the one that others send to, and a neighbour."""
    first, second = cluster.nodes[:2]
    return (second, first) if reverse else (first, second)


def passes(sender: Node, target: Node, action: Action, why: str, *, watched: bool = False) -> Expectation:
    """From node to node, seen to arrive where it is `watched`."""
    return Expectation(sender.name, target.name, action, Expect.PASS, why, watched=target.name if watched else None)


def neighbourly(cluster: Side, action: Action) -> Expectation:
    """The same, by another node of the cluster: the target is there and answers, and what watches it sees that."""
    target, neighbour = pair(cluster)
    if isinstance(action, Talk):
        action = Talk(action.to, action.port, address_of(neighbour))
    return passes(neighbour, target, action, "it is one network", watched=True)


def able(a: Side, around: Outside) -> Expectation:
    """The sender does send, beyond its own link where it may."""
    if beyond(a, around):
        return way_out(a, around)
    return Expectation(a.first.name, a.gateway_words, Ping(a.network.gateway), Expect.PASS, "its own gateway")


def beyond(a: Side, around: Outside) -> bool:
    """Whether its nodes are to reach the internet, and the host does."""
    return around.connected and leaves(a, around.resolver)


def seen_outside(a: Side, around: Outside) -> Expectation:
    """What leaves the host is seen: a question that the gateway forwards, or a ping where it forwards none."""
    missing = "" if around.uplink else "the host has no uplink"
    action: Action = Leaving(a.network.gateway, f"asked-by-{a.name}.test", "A")
    to, why = "internet", "the gateway forwards"
    if not forwards(a.network):
        to, action, why = "outside", Ping(around.resolver), "the way out is open"
        if not leaves(a, around.resolver):
            missing = "nothing of it may leave"
    return Expectation(a.first.name, to, action, Expect.PASS, why, watched=around.watch, missing=missing)


def way_out(a: Side, around: Outside) -> Expectation:
    """Its first node reaches the internet, if the host does."""
    ping = Ping(around.resolver)
    itself = Expectation(HOST, "internet", ping, Expect.PASS, "the host itself has a way out")
    return Expectation(a.first.name, "internet", ping, Expect.PASS, "the way out is open", needs=(itself,))


def outsider(around: Outside) -> tuple[Expectation, ...]:
    """The machine outside does reach the host."""
    if around.uplink is None:
        return ()
    why = "the host itself is not closed to its LAN"
    return (Expectation(LAN, "uplink", Ping(around.uplink), Expect.PASS, why),)
