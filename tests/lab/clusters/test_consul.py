"""Clusters in service discovery: names of a real Consul inside nodes, nodes registered with checks and gone after."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.lab.consul_agent import Agent, agent
from tests.waiting import COMES_WITHIN, until

from ai_how.host import memory
from ai_how.lab import INTERNET
from ai_how.probe.endpoint import Endpoint, endpoint
from ai_how.probe.packets import Answer, ask, dns, name_in_query, tcp
from ai_how.probe.place import here
from ai_how.probe.responder import Responder
from ai_how.spec.policy import Check

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]

GATEWAY = IPv4Address("10.44.0.1")
CONTROLLER, COMPUTE = "tried-controller", "tried-compute-01"
ADDRESSES = {CONTROLLER: "10.44.0.2", COMPUTE: "10.44.0.10"}
SERVICE = "tried.service.consul"

#: Where nodes answer in these tests, and Consul looks.
PORT = 7022

#: Seconds within which a node that stops is gone from the answers, with the interval and timeout of the defaults.
GONE_WITHIN = 10.0
#: So often it is tried: a busy machine may have had others to serve just then.
TRIES = 5
#: Seconds that a client has for an answer (resolv.conf(5)): what asks longer counts as stuck.
PATIENCE = 5.0

#: A response code (RFC 1035, 4.1.1).
REFUSED = 5


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """A test that ends without Consul leaves a memory of it, which is not for the next one."""
    yield
    memory.forget("consul.json")


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[Agent]:
    with agent(tmp_path / "consul") as made:
        yield made


@pytest.fixture
def no_consul_yet(tmp_path: Path) -> Callable[[], contextlib.AbstractContextManager[Agent]]:
    """Starts Consul, the same one each time."""
    return lambda: agent(tmp_path / "consul")


@pytest.fixture
def found(write: Write) -> Callable[..., Path]:
    """The cluster `tried` in service discovery as a file; fields of `service_discovery` may be given."""

    def to_file(**fields: Any) -> Path:
        return write(network=network(**fields))

    return to_file


def network(**fields: Any) -> dict[str, Any]:
    return {"dns_mode": "service_discovery", "service_discovery": {"check": {"port": PORT}} | fields}


@contextlib.contextmanager
def node(virsh: Virsh, name: str) -> Iterator[Endpoint]:
    """A place with the node's MAC and lease instead of its machine, which is defined only."""
    (mac,) = [word for word in virsh("domiflist", name).split() if word.startswith("52:54:")]
    with endpoint("br-tried", mac, name=name, within=COMES_WITHIN) as made:
        yield made


def question(place: Endpoint, name: str, kind: str = "A") -> Answer:
    """What the node is answered by its gateway, in time."""
    answer = ask(dns(place.place, GATEWAY, name, kind, within=PATIENCE))
    assert answer.replied, f"{name}: {answer.detail}"
    return answer


def addresses(place: Endpoint, name: str = SERVICE) -> set[str]:
    return set(question(place, name).said)


def registered(consul: Agent) -> list[str]:
    return sorted(consul.services())


def healthy(consul: Agent) -> list[Any]:
    """The nodes that Consul answers with."""
    found: list[Any] = consul.call("GET", "/health/service/tried?passing")
    return found


def ok(ran: Ran) -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stderr


def test_nodes_are_found_by_service_tag_and_port_and_all_other_names_as_ever(
    consul: Agent, ai_how: AiHow, virsh: Virsh, found: Callable[..., Path], clean_host: None
) -> None:
    path = found(tags=["gpu"])
    ok(ai_how("up", path, "--no-start", "--no-wait"))
    assert registered(consul) == [f"ai-how:tried:{COMPUTE}", f"ai-how:tried:{CONTROLLER}"]
    with node(virsh, CONTROLLER) as controller, node(virsh, COMPUTE) as compute, Responder() as responder:
        assert str(controller.ip) == ADDRESSES[CONTROLLER]
        assert question(controller, SERVICE).code == "NXDOMAIN"  # nobody has passed the check
        responder.listen(controller.place, PORT)
        until(lambda: addresses(compute) == {ADDRESSES[CONTROLLER]}, "the controller is found")
        responder.listen(compute.place, PORT)
        until(lambda: addresses(compute) == set(ADDRESSES.values()), "both are found")
        assert addresses(controller) == set(ADDRESSES.values())

        assert addresses(controller, f"gpu.{SERVICE}") == set(ADDRESSES.values())
        assert addresses(controller, f"{COMPUTE}.{SERVICE}") == {ADDRESSES[COMPUTE]}
        assert addresses(compute, f"controller.{SERVICE}") == {ADDRESSES[CONTROLLER]}
        assert addresses(compute, f"compute.{SERVICE}") == {ADDRESSES[COMPUTE]}
        (first, second) = question(controller, SERVICE, "SRV").said
        for record in (first, second):
            _, _, port, target = record.split()
            assert port == str(PORT)
            assert addresses(controller, target) < set(ADDRESSES.values())

        assert question(controller, "nobody.service.consul").code == "NXDOMAIN"
        assert addresses(controller, INTERNET.name) == {str(INTERNET.web)}
        assert addresses(controller, f"{COMPUTE}.tried.internal") == {ADDRESSES[COMPUTE]}
    ok(ai_how("destroy", "tried", "--yes"))
    assert registered(consul) == []


def test_a_node_that_stops_is_gone_from_the_answers_in_under_ten_seconds(
    consul: Agent, ai_how: AiHow, virsh: Virsh, found: Callable[..., Path]
) -> None:
    ok(ai_how("up", found(), "--no-start", "--no-wait"))
    # The last check that went well may have been at the very end.
    assert Check().interval + 2 * Check().timeout < GONE_WITHIN
    took: list[float] = []
    with node(virsh, CONTROLLER) as controller, node(virsh, COMPUTE) as compute, Responder() as responder:
        responder.listen(controller.place, PORT)
        responder.listen(compute.place, PORT)
        while not took or (min(took) >= GONE_WITHIN and len(took) < TRIES):
            compute.place.run(["ip", "link", "set", "eth0", "up"])
            until(lambda: addresses(controller) == set(ADDRESSES.values()), "both are found")
            begin = time.monotonic()
            compute.place.run(["ip", "link", "set", "eth0", "down"])  # no reset, no goodbye: it is just silent
            until(lambda: addresses(controller) == {ADDRESSES[CONTROLLER]}, "the silent one is gone")
            took.append(time.monotonic() - begin)
    assert min(took) < GONE_WITHIN
    ok(ai_how("destroy", "tried", "--yes"))


def test_down_takes_the_names_from_the_answers_and_up_gives_them_back(
    consul: Agent, ai_how: AiHow, virsh: Virsh, found: Callable[..., Path]
) -> None:
    path = found()
    for _ in range(2):
        ok(ai_how("up", path, "--no-start", "--no-wait"))
        with node(virsh, CONTROLLER) as controller, Responder() as responder:
            responder.listen(controller.place, PORT)
            until(lambda: addresses(controller) == {ADDRESSES[CONTROLLER]}, "it is found")
        ok(ai_how("down", "tried"))
        assert len(registered(consul)) == 2
        until(lambda: healthy(consul) == [], "nobody is found")
    ok(ai_how("destroy", "tried", "--yes"))


def test_a_change_of_the_service_is_made_live(
    consul: Agent, ai_how: AiHow, virsh: Virsh, found: Callable[..., Path], write: Write
) -> None:
    ok(ai_how("up", found(), "--no-start", "--no-wait"))
    with node(virsh, CONTROLLER) as controller, Responder() as responder:
        responder.listen(controller.place, PORT)
        until(lambda: addresses(controller) == {ADDRESSES[CONTROLLER]}, "it is found")
        ok(ai_how("up", found(service_name="batch", tags=["new"]), "--no-start", "--no-wait"))
        until(lambda: addresses(controller, "new.batch.service.consul") == {ADDRESSES[CONTROLLER]}, "the new name")
        assert question(controller, SERVICE).code == "NXDOMAIN"
        said = ok(ai_how("up", found(service_name="batch", tags=["new"]), "--no-start", "--no-wait"))
        assert "registration" not in said
        ok(ai_how("up", write(network={"dns_mode": "service_discovery"}, nodes=1), "--no-start", "--no-wait", "--yes"))
        assert registered(consul) == [f"ai-how:tried:{CONTROLLER}"]
    ok(ai_how("destroy", "tried", "--yes"))


def test_up_without_consul_is_refused_before_anything_is_changed(
    refused: Callable[..., str], found: Callable[..., Path]
) -> None:
    said = refused(3, "up", found())
    assert "Consul at http://127.0.0.1:8500 cannot be reached: connection refused: nothing listens there" in said
    assert "required: false" in said


def test_up_with_a_token_that_may_not_register_is_refused_before_anything_is_changed(
    folder: Path, refused: Callable[..., str], found: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    master = "11111111-2222-3333-4444-555555555555"
    token = folder / "token"
    token.write_text("99999999-2222-3333-4444-555555555555")
    token.chmod(0o600)
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": master}}
    with agent(tmp_path_factory.mktemp("consul"), wait=False, acl=acl) as guarded:
        until(lambda: guarded.call("GET", "/acl/token/self", token=master), "Consul", passing=(OSError,))
        said = refused(3, "up", found(token_file=str(token)))
    assert f"it does not know the token in {token}" in said


def test_a_token_with_the_documented_rights_is_enough_and_dns_needs_those_of_its_own(
    ai_how: AiHow, virsh: Virsh, found: Callable[..., Path], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    master = "11111111-2222-3333-4444-555555555555"
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": master, "agent": master}}
    with agent(tmp_path_factory.mktemp("consul"), wait=False, acl=acl) as guarded:
        until(lambda: guarded.call("GET", "/acl/token/self", token=master), "Consul", passing=(OSError,))
        token = folder / "token"
        token.write_text(allowed(guarded, master, 'service "tried" { policy = "write" }')["SecretID"])
        token.chmod(0o600)
        ok(ai_how("up", found(token_file=str(token)), "--no-start", "--no-wait"))
        with node(virsh, CONTROLLER) as controller, Responder() as responder:
            responder.listen(controller.place, PORT)
            until(lambda: guarded.call("GET", "/health/service/tried?passing", token=master), "a check has passed")
            assert question(controller, SERVICE).code == "NXDOMAIN"
            anonymous = {"AccessorID": "00000000-0000-0000-0000-000000000002"}
            rights = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
            allowed(guarded, master, rights, **anonymous)
            until(lambda: addresses(controller) == {ADDRESSES[CONTROLLER]}, "it is found")  # what a token may is cached
        ok(ai_how("destroy", "tried", "--yes"))
        assert guarded.services(master) == {}


def allowed(guarded: Agent, master: str, rules: str, **known: str) -> dict[str, str]:
    """A token, new or `known`, that may do what `rules` say."""
    policy = guarded.call("PUT", "/acl/policy", {"Name": f"for-{len(rules)}", "Rules": rules}, token=master)
    wish = known | {"Policies": [{"ID": policy["ID"]}]}
    path = f"/acl/token/{known['AccessorID']}" if known else "/acl/token"
    made: dict[str, str] = guarded.call("PUT", path, wish, token=master)
    return made


def test_nodes_do_not_reach_consul_itself(
    ai_how: AiHow, virsh: Virsh, found: Callable[..., Path], tmp_path: Path
) -> None:
    with agent(tmp_path / "open", client_addr="0.0.0.0") as consul:  # noqa: S104
        ok(ai_how("up", found(), "--no-start", "--no-wait"))
        with node(virsh, CONTROLLER) as controller, here() as host:
            assert question(controller, SERVICE).code == "NXDOMAIN"  # it asks its gateway
            for port in (consul.port, consul.dns_port):
                assert ask(tcp(host, GATEWAY, port, within=PATIENCE)).detail.startswith("connected")
                assert not ask(tcp(controller.place, GATEWAY, port, within=PATIENCE)).replied
        ok(ai_how("destroy", "tried", "--yes"))


def test_up_that_can_do_without_consul_warns_and_a_later_one_catches_up(
    no_consul_yet: Callable[[], contextlib.AbstractContextManager[Agent]],
    ai_how: AiHow,
    virsh: Virsh,
    found: Callable[..., Path],
    clean_host: None,
) -> None:
    path = found(required=False)
    said = ok(ai_how("up", path, "--no-start", "--no-wait"))
    assert "warning: " in said
    assert "nothing listens there" in said
    with node(virsh, CONTROLLER) as controller, Responder() as responder:
        assert addresses(controller, INTERNET.name) == {str(INTERNET.web)}
        with no_consul_yet() as consul:
            ok(ai_how("up", path, "--no-start", "--no-wait"))
            assert len(registered(consul)) == 2
            responder.listen(controller.place, PORT)
            until(lambda: addresses(controller) == {ADDRESSES[CONTROLLER]}, "it is found")
            ok(ai_how("destroy", "tried", "--yes"))
            assert registered(consul) == []


def test_destroy_says_nothing_of_a_consul_that_has_never_been_there(
    ai_how: AiHow, found: Callable[..., Path], clean_host: None
) -> None:
    ok(ai_how("up", found(required=False), "--no-start", "--no-wait"))
    ran = ai_how("destroy", "tried", "--yes")
    assert ran.returncode == 0, ran.stderr
    assert "Consul" not in ran.stdout + ran.stderr
    assert memory.recall("consul.json") is None


def test_the_rest_of_dns_answers_at_once_when_consul_dies_or_hangs(
    consul: Agent, ai_how: AiHow, virsh: Virsh, found: Callable[..., Path]
) -> None:
    ok(ai_how("up", found(), "--no-start", "--no-wait"))
    with node(virsh, CONTROLLER) as controller:
        assert question(controller, SERVICE).code == "NXDOMAIN"  # it answers as long as it lives
        ends: list[Callable[[], object]] = [lambda: consul.process.send_signal(signal.SIGSTOP), consul.kill]
        for end in ends:
            end()
            ask_until_refused(controller)
            for number in range(20):
                assert addresses(controller, f"n{number}.{INTERNET.name}") == {str(INTERNET.web)}
                assert addresses(controller, f"{COMPUTE}.tried.internal") == {ADDRESSES[COMPUTE]}
    status = ai_how("status", "tried")
    assert status.returncode in (0, 1)
    assert CONTROLLER in status.stdout
    ok(ai_how("down", "tried"))
    ok(ai_how("destroy", "tried", "--yes"))


def ask_until_refused(place: Endpoint) -> None:
    """Have as many questions for Consul without an answer as dnsmasq allows (dns-forward-max, 150)."""
    with place.place.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((str(GATEWAY), 53))
        asking.settimeout(0.01)
        for number in range(1000):
            name = name_in_query(f"n{number}.service.consul")
            asking.send(number.to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + name + b"\0\1\0\1")
            with contextlib.suppress(TimeoutError):
                if asking.recv(512)[3] & 15 == REFUSED:
                    return
    pytest.fail("dnsmasq went on asking")


def test_destroy_without_consul_goes_on_and_what_is_left_there_goes_with_the_next_run(
    no_consul_yet: Callable[[], contextlib.AbstractContextManager[Agent]],
    ai_how: AiHow,
    write: Write,
    found: Callable[..., Path],
    clean_host: None,
) -> None:
    with no_consul_yet() as consul:
        ok(ai_how("up", found(), "--no-start", "--no-wait"))
        assert len(registered(consul)) == 2
    said = ok(ai_how("destroy", "tried", "--yes"))
    assert "warning: " in said
    assert "nothing listens there" in said
    assert "The next `ai-how up` or `ai-how destroy` takes them back" in said
    other = write("other.yaml", name="other", network={"subnet": "10.45.0.0/24"})
    said = ok(ai_how("up", other, "--no-start", "--no-wait"))
    assert "nodes of tried are still registered in Consul" in said
    with no_consul_yet() as again:
        until(lambda: len(registered(again)) == 2, "Consul has read what it knew")
        ok(ai_how("destroy", "other", "--yes"))
        assert registered(again) == []


def test_another_consul_takes_over_from_one_that_is_gone(
    no_consul_yet: Callable[[], contextlib.AbstractContextManager[Agent]],
    ai_how: AiHow,
    found: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with no_consul_yet():
        ok(ai_how("up", found(), "--no-start", "--no-wait"))
    with agent(tmp_path / "heir", 8540) as heir:
        path = found(address=heir.address, dns_port=heir.dns_port)
        said = ok(ai_how("up", path, "--no-start", "--no-wait"))
        assert (
            "nodes of tried are still registered in Consul: Consul at http://127.0.0.1:8500 cannot be reached" in said
        )
        assert len(registered(heir)) == 2
        with no_consul_yet() as again:
            until(lambda: len(registered(again)) == 2, "Consul has read what it knew")
            ok(ai_how("up", path, "--no-start", "--no-wait"))
            assert registered(again) == []
        ok(ai_how("destroy", "tried", "--yes"))
        assert registered(heir) == []


def test_registrations_stay_where_consul_serves_only_half_and_is_not_required(
    consul: Agent, ai_how: AiHow, found: Callable[..., Path]
) -> None:
    ok(ai_how("up", found(required=False), "--no-start", "--no-wait"))
    before = consul.services()
    said = ok(ai_how("up", found(required=False, dns_port=9, tags=["new"]), "--no-start", "--no-wait"))
    assert "Consul's DNS does not answer at 127.0.0.1, port 9: nothing listens there" in said
    assert consul.services() == before
    ok(ai_how("destroy", "tried", "--yes"))


def test_up_that_is_killed_leaves_nothing_in_consul_after_the_next_destroy(
    consul: Agent, ai_how: AiHow, found: Callable[..., Path], clean_host: None
) -> None:
    path = found()
    argv = [sys.executable, "-m", "ai_how", "up", str(path), "--no-wait"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as up:
        until(lambda: registered(consul), "a registration")
        up.kill()
    ok(ai_how("destroy", "tried", "--yes"))
    assert registered(consul) == []


def test_a_consul_that_refuses_half_way_is_told_and_everything_is_undone(
    ai_how: AiHow, found: Callable[..., Path], clean_host: None, consul: Agent
) -> None:
    theirs = {"ID": f"ai-how:tried:{CONTROLLER}", "Name": "theirs"}
    consul.call("PUT", "/agent/service/register", theirs)
    ran = ai_how("up", found(), "--no-wait")
    assert ran.returncode == 3
    assert "there is already a service of this ID that ai-how did not register" in ran.stderr
    assert registered(consul) == [theirs["ID"]]
    assert ai_how("status", "--json").stdout.count("tried") == 0


def test_a_micro_guest_asks_for_its_nodes_from_inside(
    consul: Agent, ai_how: AiHow, in_guest: Callable[..., Ran], micro_image: Path, write: Write, virsh: Virsh
) -> None:
    path = write(nodes=2, base_image_path=str(micro_image), network=network())
    ok(ai_how("up", path))
    for name in ADDRESSES:
        ran = in_guest(name, "/bin/sh", "-c", f"mkdir -p /run/www && httpd -p {PORT} -h /run/www")
        assert ran.returncode == 0, ran.stderr
    answer = ""

    def complete() -> bool:
        nonlocal answer
        answer = in_guest(CONTROLLER, "nslookup", SERVICE).stdout
        return all(each in answer for each in ADDRESSES.values())

    until(complete, "both are found")
    assert str(GATEWAY) in answer
    virsh("destroy", COMPUTE)

    def alone() -> bool:
        answer = in_guest(CONTROLLER, "nslookup", SERVICE).stdout
        return ADDRESSES[CONTROLLER] in answer and ADDRESSES[COMPUTE] not in answer

    until(alone, "the one that was stopped is gone")
    ok(ai_how("destroy", "tried", "--yes"))
    assert registered(consul) == []
    assert not (memory.DIRECTORY / "consul.json").exists()
