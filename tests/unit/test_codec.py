"""Resources as JSON and back: nothing is lost, and nothing is read that does not fit exactly."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_how.config.terms import HostResolver
from ai_how.resources.base import Kind, Resource
from ai_how.resources.codec import CLASSES, from_json, to_json
from ai_how.resources.resolver import ResolverRoute
from ai_how.resources.seed import Seed, node_content
from ai_how.resources.sysctl import Sysctl

st.register_type_strategy(PurePosixPath, st.text("abc/.", min_size=1).map(PurePosixPath))

RESOURCES = st.sampled_from(sorted(CLASSES)).flatmap(lambda kind: st.from_type(CLASSES[kind]))
ROUTE = ResolverRoute("hpc-network", "br-hpc", HostResolver.DNSMASQ, IPv4Address("10.1.0.1"), ("hpc.internal",))


def everything(resource: Resource) -> list[Any]:
    """Its fields, also those that do not count when resources are compared."""
    return [getattr(resource, each.name) for each in fields(resource)]  # type: ignore[arg-type]  # a dataclass


def test_every_kind_has_its_class() -> None:
    assert set(CLASSES) == set(Kind)


@given(RESOURCES)
@settings(max_examples=400)
def test_what_is_written_as_json_is_read_back_the_same(resource: Resource) -> None:
    read = from_json(json.loads(json.dumps(to_json(resource))))
    assert type(read) is type(resource)
    assert everything(read) == everything(resource)


def test_a_seed_keeps_its_content_which_is_not_compared() -> None:
    seed = Seed("ai-how-hpc", "node.iso", node_content("node", "node.hpc.internal"))
    read = from_json(to_json(seed))
    assert isinstance(read, Seed)
    assert read.content == seed.content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": ["resolver"]}, "kind: ['resolver'] is none that this version knows"),
        ({"kind": "resolvers"}, "kind: 'resolvers' is none that this version knows"),
        ({"colour": "red"}, "resolver: colour is unknown"),
        ({"bridge": None}, "resolver: bridge: None is no str"),
        ({"bridge": 5}, "resolver: bridge: 5 is no str"),
        ({"manager": "bind"}, "resolver: manager: 'bind' is not a valid HostResolver"),
        ({"server": "10.1.0.256"}, "resolver: server: Octet 256 (> 255) not permitted in '10.1.0.256'"),
        ({"server": 167837697}, "resolver: server: 167837697 is no str"),
        ({"zones": "hpc.internal"}, "resolver: zones: 'hpc.internal' is no list"),
        ({"zones": ["hpc.internal", 1]}, "resolver: zones: [1]: 1 is no str"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(change: dict[str, Any], said: str) -> None:
    assert from_json(to_json(ROUTE)) == ROUTE
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        from_json(to_json(ROUTE) | change)


@pytest.mark.parametrize("name", [each.name for each in fields(ResolverRoute)])
def test_a_missing_field_is_refused_even_where_it_has_a_default(name: str) -> None:
    for resource in (ROUTE, Sysctl("net.ipv4.ip_forward", "1")):
        data = to_json(resource)
        last = name if name in data else "lasting"
        del data[last]
        with pytest.raises(ValueError, match=f"{last} is missing"):
            from_json(data)


@pytest.mark.parametrize("data", [None, [], "sysctl", 1])
def test_what_is_no_object_is_no_resource(data: Any) -> None:
    with pytest.raises(ValueError, match="is no resource"):
        from_json(data)


def test_a_number_is_no_truth_and_a_truth_no_number() -> None:
    data = to_json(Sysctl("net.ipv4.ip_forward", "1"))
    with pytest.raises(ValueError, match="lasting: 1 is no bool"):
        from_json(data | {"lasting": 1})
