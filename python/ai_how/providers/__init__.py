"""One file per kind of resource: how it is observed on a host, created, changed and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_how.providers import domain, network, pool, seed, volume
from ai_how.providers.base import Provider
from ai_how.resources.base import Kind

PROVIDERS: Mapping[Kind, Provider[Any]] = {
    Kind.POOL: pool,
    Kind.NETWORK: network,
    Kind.VOLUME: volume,
    Kind.SEED: seed,
    Kind.DOMAIN: domain,
}
