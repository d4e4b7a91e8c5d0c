"""`HPCClusterManager`: one cluster, brought up, stopped, asked about and removed by a program.

A façade over engine/: nothing is decided here, and nothing is printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ai_how.config.load import load_mapping
from ai_how.engine import cluster as engine
from ai_how.engine import pending
from ai_how.engine.cluster import LEASES_WITHIN, SHUTDOWN_WITHIN, Outcome
from ai_how.engine.events import Progress, silent
from ai_how.engine.prepare import foresee
from ai_how.engine.site import Site
from ai_how.engine.status import ClusterStatus
from ai_how.host.libvirt import DEFAULT_URI, Libvirt
from ai_how.plan.plan import Plan
from ai_how.spec.cluster import Cluster
from ai_how.spec.resolve import resolve


class HPCClusterManager:
    """One cluster of a configuration.

    Every method may be called again: what is already as it should be is left alone. Errors are those of
    `ai_how.errors`; each says what failed, why, and what to do.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        state_file: Path | str = "cluster_state.json",
        *,
        cluster: str | None = None,
        uri: str | None = None,
        progress: Progress = silent,
    ) -> None:
        """Check `config` and choose its cluster: `cluster` by key or name, else the key `hpc`, else the only one.

        `state_file` is the journal of the work. `uri` is libvirt's, by default LIBVIRT_DEFAULT_URI, else the system's.
        `progress` is called with the events of ai_how.engine.events, from several threads. Raises ConfigurationError
        with all problems at once, UsageError where there is no such cluster. The host is not touched.
        """
        self._document = load_mapping(config)
        self._spec = resolve(self._document, cluster)
        self._state = Path(state_file)
        self._uri = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI
        self._progress = progress

    @property
    def cluster(self) -> Cluster:
        """The cluster as configured, every default filled in (without what a host may remember of it)."""
        return self._spec

    def start_cluster(
        self,
        *,
        wait: bool = True,
        timeout: float = LEASES_WITHIN,
        remove_nodes: bool = False,
        disturb_nodes: bool = False,
        confirm_within: float | None = None,
    ) -> Outcome:
        """Make the cluster run, and wait up to `timeout` seconds until every node has its lease (unless not `wait`).

        Nodes that are there and no longer configured are removed with their disks only with `remove_nodes`; without
        it that is refused (NodesLeave); so is, without `disturb_nodes`, what running nodes would notice
        (NodesDisturbed). Raises HostError or Interrupted after undoing what the call made, NotReady
        (machines left running) where a node has no lease in time.

        With `confirm_within` the change is undone by itself unless `confirm_cluster` is called within so many seconds
        after this has returned, at once where nodes stop answering; also when this program has ended by then.
        """
        with self._site() as site:
            return engine.up(
                site,
                self._document,
                self._spec.key,
                remove_nodes=remove_nodes,
                disturb_nodes=disturb_nodes,
                wait=wait,
                within=timeout,
                confirm_within=confirm_within,
            )

    def confirm_cluster(self) -> None:
        """Keep the change that `confirm_within` has waiting. Raises NotReady where none waits, saying what became of
        the last one."""
        pending.confirm(self._uri, self._spec.name, self._state)

    def undo_cluster(self) -> None:
        """Undo the change that `confirm_within` has waiting, now. Raises NotReady where none waits, HostError."""
        pending.undo(self._uri, self._spec.name, self._state)

    def plan_cluster(self) -> Plan:
        """What `start_cluster` would do: steps with their reasons, costs, and whom they disturb. Nothing is changed."""
        with self._site() as site:
            return foresee(site.libvirt, self._document, [self._spec.key], start=True, progress=site.progress)[0].plan

    def stop_cluster(self, *, timeout: float = SHUTDOWN_WITHIN) -> Outcome:
        """Shut the nodes down, by force what still runs after `timeout` seconds; disks and addresses are kept."""
        with self._site() as site:
            return engine.down(site, self._spec.name, within=timeout)

    def status_cluster(self) -> ClusterStatus:
        """The network and the nodes with their leases, as the host has them now."""
        with self._site() as site:
            return engine.status(site.libvirt, self._spec.name)

    def destroy_cluster(self) -> Outcome:
        """Remove the nodes, their disks and the network, and nothing else."""
        with self._site() as site:
            return engine.destroy(site, self._spec.name)

    @contextmanager
    def _site(self) -> Iterator[Site]:
        with Libvirt(self._uri) as libvirt:
            yield Site(libvirt, self._state, self._progress)
