"""One file per kind of resource: how it is observed on a host, created, changed and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_how.providers import (
    domain,
    firewall,
    hook,
    network,
    passage,
    pool,
    registration,
    resolver,
    route,
    seed,
    servers,
    sysctl,
    volume,
)
from ai_how.providers.base import Provider
from ai_how.resources.base import Kind

PROVIDERS: Mapping[Kind, Provider[Any]] = {
    Kind.SYSCTL: sysctl,
    Kind.FIREWALL: firewall,
    Kind.PASSAGE: passage,
    Kind.HOOK: hook,
    Kind.SERVERS: servers,
    Kind.POOL: pool,
    Kind.NETWORK: network,
    Kind.ROUTE: route,
    Kind.RESOLVER: resolver,
    Kind.VOLUME: volume,
    Kind.SEED: seed,
    Kind.DOMAIN: domain,
    Kind.REGISTRATION: registration,
}
