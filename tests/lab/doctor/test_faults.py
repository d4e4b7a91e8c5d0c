"""The doctor names what is wrong, and nothing else: every fault that can be made here, on a host that is else well.

What is broken is looked at by the whole doctor, and mended again. Each stretch of the chain ends with a look at a host
that is well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.host_view import define_everything_once
from tests.lab.clusters.conftest import make_image
from tests.lab.doctor.conftest import Outcome, outcomes
from tests.lab.doctor.faults import CANNOT_BE_MADE, EVERY, FAULTS, HARMLESS, ONE_WAY, PAIRS, QUESTIONS, Fault, fault
from tests.lab.doctor.scene import Ask, Scene, ask, ask_impatiently, scene
from tests.lab.doctor.ways import Breaks, leads_out

from ai_how.diagnose.catalogue import CATALOGUE
from ai_how.images import build_micro_image


@pytest.fixture(scope="module")
def host(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    define_everything_once()
    folder = tmp_path_factory.mktemp("doctor")
    micro = build_micro_image(folder / "micro.qcow2").path
    with scene(folder, make_image(folder / "blank.qcow2"), micro) as made:
        yield made


def last_of_its_layer(one: Fault) -> bool:
    layers = [CATALOGUE[each.id].layer for each in FAULTS]
    at = FAULTS.index(one)
    return at + 1 == len(FAULTS) or layers[at + 1] is not layers[at]


def test_every_fault_of_the_catalogue_is_made_or_cannot_be() -> None:
    made = Counter(each.id for each in FAULTS)
    assert set(made) | set(CANNOT_BE_MADE) == set(CATALOGUE)
    assert set(made) & set(CANNOT_BE_MADE) == set()
    assert {identifier for identifier, count in made.items() if count == 1} == set(ONE_WAY)
    assert len({str(each) for each in FAULTS}) == len(FAULTS)


def well(ask: Ask = ask) -> None:
    seen = ask(())
    assert seen.root is None, str(seen)
    assert seen.wrong == [], str(seen)


def test_of_a_host_that_is_well_nothing_is_said_in_any_mode(host: Scene) -> None:
    assert [each for each in EVERY if not leads_out(each, within=30.0)] == []
    well(ask_impatiently)


@pytest.mark.parametrize(
    "name",
    [("dnsmasq-unresponsive", "it is stopped"), ("dns-upstream-dead", "nobody outside answers")],
    ids=lambda name: name[0],
)
def test_what_is_asked_in_vain_is_named_with_no_more_patience_than_anywhere(name: tuple[str, str], host: Scene) -> None:
    broken = fault(*name)
    with broken.made(host):
        seen = ask_impatiently()
    assert seen.causes == ((broken.id, broken.subject),), str(seen)


@pytest.mark.parametrize("broken", FAULTS, ids=str)
def test_fault_is_the_one_cause(broken: Fault, host: Scene, request: pytest.FixtureRequest) -> None:
    with broken.made(host) as otherwise:
        seen = (otherwise or ask)(broken.words)
    expected = {(broken.id, subject) for subject in broken.subjects}
    false = [each for each in seen.causes if each not in expected]
    outcomes(request.config).append(
        Outcome(str(broken), seen.root in expected, bool(expected & set(seen.causes)), false)
    )
    if last_of_its_layer(broken):
        well()
    assert seen.root in expected, str(seen)
    assert false == [], str(seen)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " and ".join(identifier for identifier, _ in pair))
def test_two_faults_at_once_are_both_said(pair: tuple[tuple[str, str], tuple[str, str]], host: Scene) -> None:
    both = [fault(*each) for each in pair]
    with ExitStack() as stack:
        for each in both:
            assert stack.enter_context(each.made(host)) is None
        seen = ask()
    for each in both:
        assert {(each.id, subject) for subject in each.subjects} & set(seen.causes), str(seen)
    expected = {(each.id, subject) for each in both for subject in each.subjects}
    assert set(seen.causes) <= expected, str(seen)


@pytest.mark.parametrize(
    ("name", "words", "told"), QUESTIONS, ids=[f"{name[0]} of {' '.join(words)}" for name, words, _ in QUESTIONS]
)
def test_question_is_answered_with_what_concerns_it(
    name: tuple[str, str], words: tuple[str, ...], told: bool, host: Scene
) -> None:
    asked = fault(*name)
    with asked.made(host):
        seen = ask(words)
    assert seen.root == ((asked.id, asked.subject) if told else None), str(seen)
    assert len(seen.causes) == told, str(seen)


@pytest.mark.parametrize("harmless", HARMLESS.values(), ids=HARMLESS)
def test_what_only_looks_like_a_fault_is_none(harmless: Breaks, host: Scene) -> None:
    with harmless(host):
        seen = ask()
    assert seen.root is None, str(seen)


def test_after_all_of_it_the_host_is_well(host: Scene) -> None:
    well()
