"""The door to DHCP servers of this host: giving back a lease whose holder is gone."""

from __future__ import annotations

import secrets
import socket
import struct
from ipaddress import IPv4Address

from ai_how.errors import HostError

_SERVER_PORT = 67
_COOKIE = b"\x63\x82\x53\x63"
_MESSAGE_TYPE, _RELEASE, _SERVER_IDENTIFIER, _END = 53, 7, 54, 255


def release(bridge: str, server: IPv4Address, ip: IPv4Address, mac: str) -> None:
    """Tell the DHCP server with address `server` on `bridge` that `mac` no longer uses `ip`. Raises HostError.

    A server that has no such lease ignores it; there is never an answer.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            # The server serves the bridge alone; bound to it, a packet of the host itself counts as one from there.
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
            sender.sendto(release_message(server, ip, mac), (str(server), _SERVER_PORT))
        except OSError as error:
            raise HostError(f"the lease of {ip} cannot be given back on {bridge}", why=str(error)) from error


def release_message(server: IPv4Address, ip: IPv4Address, mac: str) -> bytes:
    """A DHCPRELEASE (RFC 2131, section 4.4.4 and table 5)."""
    request, ethernet, hardware_length = 1, 1, 6
    fixed = struct.pack(
        ">BBBB4sHH4s4s4s4s16s64s128s",
        *(request, ethernet, hardware_length, 0, secrets.token_bytes(4), 0, 0),
        *(ip.packed, b"", b"", b"", bytes.fromhex(mac.replace(":", "")), b"", b""),
    )
    options = bytes([_MESSAGE_TYPE, 1, _RELEASE, _SERVER_IDENTIFIER, 4]) + server.packed + bytes([_END])
    return fixed + _COOKIE + options
