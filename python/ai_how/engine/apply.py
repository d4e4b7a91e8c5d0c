"""Taking the steps of a plan: side by side where they allow it, undone where one fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, assert_never

from ai_how.engine.events import Phase, Progress, StepDone, StepFailed, StepStarted, silent
from ai_how.errors import AiHowError, Interrupted
from ai_how.host.libvirt import AT_ONCE, Libvirt
from ai_how.plan.plan import Action, Plan, Step
from ai_how.providers import PROVIDERS

_REMEDY = "Run the same command again to complete it, or ai-how destroy to remove what is there."


def take(libvirt: Libvirt, step: Step) -> None:
    """Take one step on the host."""
    provider: Any = PROVIDERS[step.target.kind]
    match step.action:
        case Action.CREATE:
            provider.create(libvirt, step.want)
        case Action.CHANGE:
            provider.change(libvirt, step.have, step.want)
        case Action.REMOVE:
            provider.remove(libvirt, step.have)
        case _:
            assert_never(step.action)


def apply(libvirt: Libvirt, plan: Plan, progress: Progress, *, undone: Callable[[], None]) -> None:
    """Take every step of `plan`.

    When one fails, or on Ctrl-C, no further step begins, those under way end, and what this run made is undone; then
    `undone` is called, unless something could not be. Last, the error is raised (a step's HostError), or Interrupted.
    A second Ctrl-C leaves the rest as it is: the journal still holds the run.
    """
    progress(Phase("apply", len(plan.steps)))
    begun: list[Step] = []
    workers = ThreadPoolExecutor(AT_ONCE)
    try:
        _take_all(plan, workers, lambda step: take(libvirt, step), begun, progress)
    except (Exception, KeyboardInterrupt) as stop:  # whatever it is, a caller's progress included: undone, then raised
        listener = progress if isinstance(stop, AiHowError | KeyboardInterrupt) else silent
        try:
            workers.shutdown()  # an undo beside a step under way could come too early for it
            complete = _undo(libvirt, begun, listener)
            if complete:
                undone()
        except KeyboardInterrupt as again:
            raise Interrupted("interrupted again", why="not all was undone", remedy=_REMEDY) from again
        if not isinstance(stop, KeyboardInterrupt):
            raise
        why = "what this run had made was undone" if complete else "not all could be undone"
        raise Interrupted("interrupted", why=why, remedy="" if complete else _REMEDY) from stop
    finally:
        workers.shutdown(wait=False)


def _take_all(
    plan: Plan, workers: ThreadPoolExecutor, do: Callable[[Step], None], begun: list[Step], progress: Progress
) -> None:
    missing = {number: set(before) for number, before in enumerate(plan.after)}
    followers: dict[int, list[int]] = {}
    for number, before in enumerate(plan.after):
        for each in before:
            followers.setdefault(each, []).append(number)
    ready = [number for number, before in missing.items() if not before]
    running: dict[Future[float], int] = {}
    ended: SimpleQueue[Future[float]] = SimpleQueue()
    try:
        while ready or running:
            for number in ready:
                step = plan.steps[number]
                begun.append(step)
                future = workers.submit(_timed, do, step, progress)
                running[future] = number
                future.add_done_callback(ended.put)
            ready = []
            future = ended.get()
            number = running.pop(future)
            step = plan.steps[number]
            try:
                seconds = future.result()
            except AiHowError as error:
                progress(StepFailed(step, error))
                raise
            progress(StepDone(step, seconds))
            for follower in followers.get(number, ()):
                missing[follower].discard(number)
                if not missing[follower]:
                    ready.append(follower)
    except BaseException:
        for future, number in running.items():
            if future.cancel():
                begun.remove(plan.steps[number])
        raise


def _timed(do: Callable[[Step], None], step: Step, progress: Progress) -> float:
    progress(StepStarted(step))
    begin = time.monotonic()
    do(step)
    return time.monotonic() - begin


def _undo(libvirt: Libvirt, begun: list[Step], progress: Progress) -> bool:
    """Take back, last first, what this run made or changed; whether all of it could be.

    What the run removed was to go, and stays gone.
    """
    complete = True
    back = [step.undo() for step in reversed(begun) if step.action is not Action.REMOVE]
    progress(Phase("undo", len(back)))
    for step in back:
        progress(StepStarted(step))
        begin = time.monotonic()
        try:
            take(libvirt, step)
        except AiHowError as error:
            # The journal still holds the run: the next `up` or `destroy` meets what is left.
            progress(StepFailed(step, error))
            complete = False
        else:
            progress(StepDone(step, time.monotonic() - begin))
    return complete and all(step.action is not Action.REMOVE for step in begun)
