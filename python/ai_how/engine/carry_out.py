"""A plan carried out: said, journalled, applied, and the host read again until it looks as planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ai_how.engine.apply import apply
from ai_how.engine.events import Phase
from ai_how.engine.observe import Observed, observe
from ai_how.engine.site import Site
from ai_how.engine.state import State
from ai_how.errors import HostError
from ai_how.plan.plan import Plan, make_plan
from ai_how.resources.base import Resource

#: Seconds within which the host must look as planned after the last step.
VERIFY_WITHIN = 10.0


def carry_out(
    site: Site, state: State, verb: str, name: str, plan: Plan, want: Callable[[Observed], Iterable[Resource]]
) -> Observed:
    """Journal, apply, and read the host again until it looks as it shall (`want`, of what there is), which is returned.

    What changes outside libvirt is said before it is done.
    """
    was_there = name in state.clusters
    state.begin(name, site.libvirt.uri, verb, plan)
    apply(site.libvirt, plan, site.progress, undone=lambda: state.finish(name) if was_there else state.forget(name))
    site.progress(Phase("verify", len(plan.steps)))
    deadline = time.monotonic() + VERIFY_WITHIN
    while True:
        observed = observe(site.libvirt, name)
        left = make_plan(want(observed), observed.everything)
        if not left:
            return observed
        if time.monotonic() > deadline:
            raise HostError(
                f"the host does not look as planned after {verb}",
                why="; ".join(f"{step} ({step.reason})" for step in left.steps[:5]),
                remedy=f"Run ai-how {verb} again. If that does not help, something else changes these things.",
            )
        time.sleep(0.1)
