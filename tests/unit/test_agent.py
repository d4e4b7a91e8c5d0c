"""What guest agents say, understood."""

from __future__ import annotations

import base64
from ipaddress import ip_interface
from typing import Any

from ai_how.host.agent import Link, Ran, read_links, read_ran


def test_outputs_that_a_command_does_not_have_are_empty() -> None:
    assert read_ran({"exited": True, "exitcode": 0}) == Ran(0, "", "")


def test_bytes_that_are_no_text_do_not_stop_the_reading() -> None:
    said = base64.b64encode(b"caf\xe9\n").decode()
    assert read_ran({"exited": True, "exitcode": 1, "err-data": said}) == Ran(1, "", "caf\N{REPLACEMENT CHARACTER}\n")


def test_an_end_by_a_signal_is_no_success() -> None:
    assert read_ran({"exited": True, "signal": 9}).code == 137


def test_links_with_all_their_addresses() -> None:
    interfaces: list[dict[str, Any]] = [
        {
            "name": "lo",
            "hardware-address": "00:00:00:00:00:00",
            "ip-addresses": [
                {"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8},
                {"ip-address-type": "ipv6", "ip-address": "::1", "prefix": 128},
            ],
        },
        {
            "name": "Ethernet 2",
            "hardware-address": "52:54:00:AB:CD:EF",
            "ip-addresses": [
                {"ip-address-type": "ipv6", "ip-address": "fe80::1%12", "prefix": 64},
                {"ip-address-type": "ipv4", "ip-address": "10.1.2.3", "prefix": 24},
            ],
        },
        {"name": "wg0"},
    ]
    assert read_links(interfaces) == (
        Link("lo", "", (ip_interface("127.0.0.1/8"), ip_interface("::1/128"))),
        Link("Ethernet 2", "52:54:00:ab:cd:ef", (ip_interface("fe80::1/64"), ip_interface("10.1.2.3/24"))),
        Link("wg0", "", ()),
    )
