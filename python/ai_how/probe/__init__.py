"""Proof by packets: places to send from, what should arrive and what should not, and what did.

Places
    place.py         a network namespace to send from
    endpoint.py      a place on a cluster's bridge, with a MAC and a lease of its own; dhcp.py gets the lease
    guest.py         a machine that runs, by its guest agent
    standing.py      all places of a test, for clusters that are up
    packets.py       one packet, or one question, and what came back
    responder.py     answers at a place, and notes what arrives there

What shall be, and what is (`ai-how test`)
    actions.py       what can be tried
    expectations.py  what is expected, and of which clusters and surroundings; controls.py what that rests on
    columns.py       one cluster against another; private6.py the IPv6 of that
    promises.py      clusters of a host as it stands
    run.py, judge.py, report.py
    matrix.py        every mode against every other; rehearsal.py a configuration: both in a lab, where
                     registry.py is their Consul

Why a packet does not arrive (`ai-how why-not`)
    ends.py          from whom to whom
    explain.py       sends it and finds where it stopped, with tracer.py, trace.py, legacy.py (rules),
                     circumstances.py (links, routes, neighbours), path.py (in words), remedy.py (what lets it pass)

How well it performs (`ai-how perf`)
    perf.py, measure.py, floor.py
"""
