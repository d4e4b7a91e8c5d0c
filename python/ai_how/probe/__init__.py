"""Proof by packets: places to send from, what should arrive and what should not, and what did.

place.py         a network namespace to send from
endpoint.py      a place on a cluster's bridge, with a MAC and a lease of its own
dhcp.py          the client that gets the lease
packets.py       one packet, or one question, and what came back
responder.py     answers at a place, and notes what arrives there
"""
