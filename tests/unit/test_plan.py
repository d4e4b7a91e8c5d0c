"""Plans: what differs becomes a step, in an order that never breaks a dependency, with an undo that follows from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.compile.hook import HOOK
from ai_how.plan.plan import Action, Plan, Step, make_plan
from ai_how.plan.refuse import disturbed_nodes, lost_addresses, refusals
from ai_how.resources.base import Impact, Kind, Resource, ResourceId, identify
from ai_how.resources.domain import Domain
from ai_how.resources.network import Forward, Reservation, VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.seed import Seed
from ai_how.resources.volume import Volume
from ai_how.spec.node import Role
from ai_how.spec.policy import Firewall, Policy

DIRECTORY = PurePosixPath("/images/ai-how-lab")
POOL = Pool("ai-how-lab", DIRECTORY, active=True)
SEED = Seed("ai-how-lab", "n0.iso")


def network(*, nodes: int = 1, active: bool = True, third: int = 0) -> VirtualNetwork:
    subnet = IPv4Network(f"10.0.{third}.0/24")
    return VirtualNetwork(
        name="lab-network",
        cluster="lab",
        dns_mode="isolated",
        forward=Forward.NAT,
        bridge="br-lab",
        mac="52:54:00:00:00:ff",
        mtu=None,
        domain="lab.internal",
        subnet=subnet,
        gateway=subnet[1],
        dhcp_ranges=((subnet[10], subnet[254]),),
        reservations=tuple(Reservation(subnet[10 + i], f"52:54:00:00:00:{i:02x}", f"n{i}") for i in range(nodes)),
        dns_hosts=(),
        forwarders=(),
        dnsmasq_options=(),
        active=active,
        autostart=active,
        policy=Policy(firewall=Firewall(enabled=False)),
    )


def disk(i: int, capacity: int = 100, backing: str = "/base.qcow2") -> Volume:
    return Volume("ai-how-lab", f"n{i}.qcow2", capacity, PurePosixPath(backing))


def machine(i: int, *, running: bool = True, vcpus: int = 1) -> Domain:
    return Domain(
        name=f"n{i}",
        cluster="lab",
        role=Role.COMPUTE,
        kvm=True,
        vcpus=vcpus,
        memory_kib=1024,
        disk=DIRECTORY / f"n{i}.qcow2",
        seed=DIRECTORY / SEED.name if i == 0 else None,
        network="lab-network",
        mac=f"52:54:00:00:00:{i:02x}",
        graphics=False,
        running=running,
    )


def cluster(nodes: int, *, running: bool = True) -> list[Resource]:
    made: list[Resource] = [POOL, network(nodes=nodes, active=running)]
    for i in range(nodes):
        made += [disk(i), machine(i, running=running)]
    return [*made, SEED] if nodes else made


def said(plan: Plan) -> list[str]:
    return [str(step) for step in plan.steps]


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert not make_plan(cluster(3), cluster(3))
    assert not make_plan(cluster(3), list(reversed(cluster(3))))


def test_everything_is_made_from_needs_to_dependants() -> None:
    plan = make_plan(cluster(2), ())
    assert said(plan) == [
        "create pool ai-how-lab",
        "create network lab-network",
        "create volume ai-how-lab/n0.qcow2",
        "create volume ai-how-lab/n1.qcow2",
        "create seed ai-how-lab/n0.iso",
        "create domain n0",
        "create domain n1",
    ]
    assert plan.after == ((), (), (0,), (0,), (0,), (1, 2, 4), (1, 3))


def test_libvirt_is_told_of_the_hook_while_no_pool_is_made_or_removed() -> None:
    assert [step.target.kind for step in make_plan([POOL, HOOK], []).steps] == [Kind.HOOK, Kind.POOL]
    assert make_plan([POOL, HOOK], []).after == ((), (0,))
    assert make_plan([], [POOL, HOOK]).after == ((), (0,))


def test_everything_is_removed_from_dependants_to_needs() -> None:
    plan = make_plan((), cluster(1))
    assert said(plan) == [
        "remove domain n0",
        "remove seed ai-how-lab/n0.iso",
        "remove volume ai-how-lab/n0.qcow2",
        "remove network lab-network",
        "remove pool ai-how-lab",
    ]
    assert plan.after == ((), (0,), (0,), (0,), (1, 2))
    assert plan.steps[0].disturbs == plan.steps[3].disturbs == ("n0",)


def test_a_new_node_is_made_without_a_word_to_the_others() -> None:
    plan = make_plan(cluster(3), cluster(2))
    assert said(plan) == ["change network lab-network", "create volume ai-how-lab/n2.qcow2", "create domain n2"]
    assert all(step.disturbs == () for step in plan.steps)
    assert plan.after[2] == (0, 1)


def test_a_node_goes_before_its_address_is_given_away() -> None:
    plan = make_plan(cluster(2), cluster(3))
    assert said(plan) == ["remove domain n2", "remove volume ai-how-lab/n2.qcow2", "change network lab-network"]
    assert plan.after == ((), (0,), (0,))
    assert [step.disturbs for step in plan.steps] == [("n2",), ("n2",), ()]


def test_stopping_takes_the_machines_first_and_starting_takes_them_last() -> None:
    down = make_plan(cluster(1, running=False), cluster(1))
    up = make_plan(cluster(1), cluster(1, running=False))
    assert said(down) == ["change domain n0", "change network lab-network"]
    assert down.after == ((), (0,))
    assert said(up) == ["change network lab-network", "change domain n0"]
    assert up.after == ((), (0,))


def test_a_change_says_what_differs_and_whom_it_disturbs() -> None:
    want: list[Resource] = [POOL, network(), disk(0), machine(0, vcpus=4), SEED]
    [step] = make_plan(want, cluster(1)).steps
    assert (step.reason, step.disturbs) == ("vcpus differs; it runs on as it is until its next start", ())
    assert [(each.field, each.old, each.new) for each in step.fields] == [("vcpus", 1, 4)]
    [live] = make_plan([POOL, network(nodes=2), *cluster(1)[2:]], cluster(1)).steps
    assert (live.reason, live.disturbs) == ("reservations differs", ())


# Properties of any two states of a cluster

NODES = st.sets(st.integers(0, 4))
RUNNING = st.booleans()


def some(nodes: set[int], running: bool) -> list[Resource]:
    made: list[Resource] = []
    if nodes:
        made += [POOL, replace(network(nodes=max(nodes) + 1, active=running))]
    for i in nodes:
        made += [disk(i), machine(i, running=running), *([SEED] if i == 0 else [])]
    return made


def take(have: dict[ResourceId, Resource], step: Step) -> None:
    """What a provider does, with its demand that needs be there."""
    if step.action is Action.REMOVE:
        dependants = [each for each in have.values() if step.target in each.needs]
        assert dependants == []
        del have[step.target]
        return
    assert step.want is not None
    assert all(needed in have for needed in step.want.needs if needed != identify(HOOK))
    if step.want.up and isinstance(step.want, Domain):
        assert have[ResourceId(Kind.NETWORK, step.want.network)].up
    have[step.target] = step.want


@given(old=NODES, new=NODES, was=RUNNING, will=RUNNING, order=st.randoms(use_true_random=False))
def test_any_order_that_keeps_after_leads_there_without_breaking_a_need(
    old: set[int], new: set[int], was: bool, will: bool, order: object
) -> None:
    want, before = some(new, will), some(old, was)
    plan = make_plan(want, before)
    have = {identify(each): each for each in before}
    left = set(range(len(plan.steps)))
    while left:
        ready = sorted(number for number in left if not left & set(plan.after[number]))
        assert ready, "steps wait for each other"
        number = order.choice(ready)  # type: ignore[attr-defined]
        take(have, plan.steps[number])
        left.discard(number)
    assert have == {identify(each): each for each in want}
    assert not make_plan(want, have.values())


@given(old=NODES, new=NODES, was=RUNNING, will=RUNNING)
def test_undoing_all_steps_backwards_leads_back(old: set[int], new: set[int], was: bool, will: bool) -> None:
    before = some(old, was)
    plan = make_plan(some(new, will), before)
    have = {identify(each): each for each in before}
    for step in plan.steps:
        take(have, step)
    for step in reversed(plan.steps):
        take(have, step.undo())
    assert have == {identify(each): each for each in before}


@given(old=NODES, new=NODES, was=RUNNING, will=RUNNING)
def test_a_plan_names_no_node_that_stays_as_it_is(old: set[int], new: set[int], was: bool, will: bool) -> None:
    plan = make_plan(some(new, will), some(old, was))
    if was and will and new:
        staying = {f"n{i}" for i in old & new}
        assert staying.isdisjoint(name for step in plan.steps for name in step.disturbs)


# What a plan must not do by itself


@pytest.mark.parametrize(
    ("want", "reason"),
    [
        ([disk(0, capacity=99)], "capacity is 100 and would become 99, but a disk cannot shrink without losing data"),
        ([disk(0, capacity=101)], "but n0 is running: stop the cluster first (ai-how down)"),
        ([disk(0, backing="/other.qcow2")], "which needs it to be made anew and would lose what is on it"),
    ],
)
def test_a_change_that_loses_data_or_connections_is_refused(want: Sequence[Resource], reason: str) -> None:
    changed = {identify(each): each for each in [*cluster(1), *want]}
    found = refusals(make_plan(changed.values(), cluster(1)))
    assert any(reason in each for each in found), found


def test_a_restart_of_the_network_says_whom_it_disturbs_and_nothing_else_does() -> None:
    [step] = (plan := make_plan([*cluster(1), network(third=1)], cluster(1))).steps
    assert (step.impact, step.disturbs) == (Impact.RESTART, ("n0",))
    assert step.reason.endswith("the network is restarted: 1 node loses its link for a moment")
    assert disturbed_nodes(plan) == {"n0": f"network lab-network: {step.reason}"}
    assert disturbed_nodes(make_plan(cluster(3), cluster(1))) == {}
    assert disturbed_nodes(make_plan(cluster(1), cluster(3))) == {}


def test_an_address_that_a_node_holds_is_not_given_to_another() -> None:
    [first, second] = network(nodes=2).reservations
    swapped = replace(
        network(nodes=2), reservations=(replace(first, mac=second.mac, name=second.name), replace(second, mac="x"))
    )
    plan = make_plan([*cluster(2), swapped], cluster(2))
    [reason, *_] = lost_addresses(plan, {first.mac: first.ip})
    assert reason.startswith(f"{first.ip} would become the address of {second.name}")
    assert lost_addresses(plan, {}) == ()
    # One that leaves in the same plan gives its address up.
    leaving = make_plan([*cluster(1), swapped], cluster(2))
    assert lost_addresses(leaving, {second.mac: first.ip}) == ()


def test_a_pool_does_not_shrink_below_the_leases_in_use() -> None:
    guest = {"52:54:00:00:00:99": network().dhcp_ranges[0][1]}
    start, end = network().dhcp_ranges[0]
    plan = make_plan([*cluster(1), replace(network(), dhcp_ranges=((start, end - 1),))], cluster(1))
    [reason] = lost_addresses(plan, guest)
    assert reason.startswith(f"the DHCP pool would no longer have {end}, which 52:54:00:00:00:99 holds")
    assert lost_addresses(make_plan(cluster(2), cluster(1)), guest) == ()


def test_removing_a_thousand_running_nodes_is_planned_within_a_second_of_the_cpu() -> None:
    nodes = [each for i in range(1000) for each in (disk(i), machine(i))]
    begin = time.process_time()
    plan = make_plan((), [network(), *nodes])
    assert time.process_time() - begin < 1.0  # 30 ms; 5 s where every machine is looked at for every step
    assert {step.target.key: len(step.disturbs) for step in plan.steps}["lab-network"] == 1000
    assert {len(step.disturbs) for step in plan.steps if step.target.kind is not Kind.NETWORK} == {1}


def test_a_plan_is_known_by_its_digest() -> None:
    first, same = make_plan(cluster(3), []), make_plan(reversed(cluster(3)), [])
    assert first.digest == same.digest != make_plan(cluster(3), cluster(1)).digest


@pytest.mark.parametrize("want", [[disk(0, capacity=101)], [network(third=1)], [machine(0, running=False, vcpus=8)]])
def test_the_same_at_rest_is_allowed_where_nothing_is_lost(want: Sequence[Resource]) -> None:
    have = cluster(1, running=False)
    changed = {identify(each): each for each in [*have, *want]}
    assert refusals(make_plan(changed.values(), have)) == ()


def test_coming_and_going_nodes_are_never_refused() -> None:
    assert refusals(make_plan(cluster(5), cluster(2))) == refusals(make_plan(cluster(1), cluster(5))) == ()
    assert IPv4Address("10.0.0.10") in {each.ip for each in network().reservations}
