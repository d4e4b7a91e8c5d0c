"""Names on the host that follow from the cluster's name alone."""

from __future__ import annotations


def pool_name(cluster: str) -> str:
    """The storage pool of the cluster; its directory has the same last part."""
    return f"ai-how-{cluster}"


def pool_cluster(pool: str) -> str:
    """The cluster that a storage pool of this name is of."""
    return pool.removeprefix(pool_name(""))
