"""Clusters that are up, and `ai-how test` of them within this process: every scenario with what it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ai_how.config.load import Document, load_mapping
from ai_how.engine import cluster as engine
from ai_how.engine.prepare import specs_here
from ai_how.host.libvirt import Libvirt
from ai_how.probe import promises
from ai_how.probe.expectations import Expect, Expectation
from ai_how.probe.judge import Result, Scenario
from ai_how.probe.run import run
from ai_how.probe.standing import Standing, standing
from ai_how.spec.cluster import Cluster

#: How often what shall pass is tried: on a busy machine answers come late.
ATTEMPTS = 9

MACHINE = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}


def cluster(image: Path, name: str, number: int, *, nodes: int = 3, **network: Any) -> dict[str, Any]:
    """A cluster as data; `number` is of its subnet."""
    return {
        "name": name,
        "base_image_path": str(image),
        "network": {"subnet": f"10.44.{number}.0/24", "bridge": f"br-{name}"[:15]} | network,
        "controller": dict(MACHINE),
        "compute_nodes": [dict(MACHINE) for _ in range(nodes - 1)],
    }


def document(*clusters: dict[str, Any]) -> Document:
    """A configuration of them."""
    return load_mapping({"clusters": {each["name"]: each for each in clusters}})


@dataclass(frozen=True)
class Found:
    """What became of every expectation."""

    scenarios: dict[Expectation, Scenario]

    def names(self, result: Result, *expect: Expect) -> set[str]:
        """Of the scenarios that ended so, or of those of them from which this was expected."""
        found = (each for each in self.scenarios.values() if each.result is result)
        return {each.name for each in found if each.expect in (expect or Expect)}

    @property
    def failed(self) -> list[str]:
        """Those that failed, with what was seen."""
        return [f"{each.name}: {each.detail}" for each in self.scenarios.values() if each.result is Result.FAILED]

    def missing(self) -> set[str]:
        """What the skipped ones say."""
        return {each.detail for each in self.scenarios.values() if each.result is Result.SKIPPED}

    def unjustified(self) -> list[str]:
        """Scenarios that passed although what they rest on did not, and skipped ones that had no reason to be."""
        found = []
        for expectation, scenario in self.scenarios.items():
            rests_on = (*expectation.controls, *expectation.needs)
            without = [each.name for each in rests_on if self.scenarios[each].result is not Result.PASSED]
            if scenario.result is Result.SKIPPED and not without and not expectation.missing:
                found.append(f"{scenario.name} was skipped: {scenario.detail}")
            if scenario.result is Result.PASSED and expectation.expect is Expect.DENY and without:
                found.append(f"{scenario.name} passed without {', '.join(without)}")
        return found


@dataclass
class Scene:
    """The clusters of a configuration, up; places stand in them from one trial to the next."""

    libvirt: Libvirt
    document: Document
    state: Path
    _places: ExitStack = field(default_factory=ExitStack)
    _standing: Standing | None = None

    def up(self) -> None:
        """All of them, without machines."""
        site = engine.Site(self.libvirt, self.state)
        for key in self.document.model.clusters:
            engine.up(site, self.document, key, start=False, wait=False)

    def destroy(self) -> None:
        """All of them."""
        self.leave()
        site = engine.Site(self.libvirt, self.state)
        for each in self.document.model.clusters.values():
            engine.destroy(site, each.name)

    def specs(self) -> tuple[Cluster, ...]:
        """The clusters as they are on the host."""
        return tuple(specs_here(self.libvirt, self.document, list(self.document.model.clusters)))

    def stand(self) -> Standing:
        """The places, made anew if there are none."""
        if self._standing is None:
            self._standing = self._places.enter_context(standing(self.libvirt, self.specs()))
        return self._standing

    def leave(self) -> None:
        """Give the places up."""
        self._standing = None
        self._places.close()

    def try_all(self, attempts: int = ATTEMPTS, *, quick: bool = False) -> Found:
        """Everything that is promised, or the part that `up` ends with."""
        there = self.stand()
        for each in there.spots.values():
            if each.tap is not None:
                each.tap.frames().clear()  # what an earlier trial has sent
        wanted = (promises.quick if quick else promises.whole)(there.parties, there.strangers, there.around)
        found = run(wanted.expectations, there.spots, attempts=attempts)
        assert len({each.name for each in found}) == len(found), "a name means two scenarios"
        return Found(found)


@contextmanager
def scene(folder: Path, *clusters: dict[str, Any]) -> Iterator[Scene]:
    """These clusters, up for the length of a `with` block."""
    with Libvirt() as libvirt:
        made = Scene(libvirt, document(*clusters), folder / "state.json")
        try:
            made.up()
            yield made
        finally:
            made.destroy()
