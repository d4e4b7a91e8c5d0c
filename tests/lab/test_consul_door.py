"""The door to Consul: what it says of every way in which Consul may be away, wrong or unwilling."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.lab.consul_agent import Agent, agent
from tests.waiting import stop, until

from ai_how.errors import HostError
from ai_how.host import consul
from ai_how.host.consul import check_consul, list_services
from ai_how.spec.policy import Discovery, Tls

MASTER = "11111111-2222-3333-4444-555555555555"
#: Seconds in which a bound of one second has held, however busy the machine: what drips without it takes 100.
BOUND_HOLDS_WITHIN = 60.0


@pytest.fixture(scope="module")
def plain(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent(tmp_path_factory.mktemp("plain"), 8500) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent whose ACLs deny what no token allows."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER}}
    with agent(tmp_path_factory.mktemp("guarded"), 8510, wait=False, acl=acl) as made:
        until(lambda: made.call("GET", "/acl/token/self", token=MASTER), "its tokens", passing=(OSError,))
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, certificates of it for the server (by Consul's own name) and for us, and a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "ca")
    make_authority(folder, "other")
    make_certificate(folder, "server", "ca", "server.dc1.consul")
    make_certificate(folder, "us", "ca", "ai-how")
    make_certificate(folder, "past", "ca", "server.dc1.consul", "-days", "-1")
    return folder


@pytest.fixture(scope="module")
def encrypted(libvirt_uri: str, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    files: dict[str, Any] = {
        "cert_file": str(certificates / "server.pem"),
        "key_file": str(certificates / "server.key"),
    }
    with agent(tmp_path_factory.mktemp("encrypted"), 8520, **files) as made:
        yield made


@pytest.fixture
def token(tmp_path: Path) -> Callable[..., str]:
    """A file with this token; its path."""

    def write(text: str, mode: int = 0o600) -> str:
        path = tmp_path / "token"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


def complaint(discovery: Discovery) -> str:
    with pytest.raises(HostError) as caught:
        check_consul(discovery)
    assert caught.value.what
    assert caught.value.why
    assert caught.value.remedy
    return str(caught.value)


def test_a_consul_that_is_well_passes(plain: Agent) -> None:
    check_consul(plain.discovery())
    check_consul(plain.discovery(datacenter="dc1"))
    check_consul(plain.discovery(address=plain.address.replace("127.0.0.1", "localhost")))


def test_nothing_listening_is_told_from_everything_else(plain: Agent) -> None:
    said = complaint(plain.discovery(address="http://127.0.0.1:9"))
    assert "Consul at http://127.0.0.1:9 cannot be reached: connection refused: nothing listens there" in said
    assert "Start Consul's agent, or correct network.service_discovery.address" in said


def test_no_way_to_consul_is_told(plain: Agent) -> None:
    subprocess.run(["ip", "route", "add", "unreachable", "192.0.2.9"], check=True)
    try:
        said = complaint(plain.discovery(address="http://192.0.2.9:8500"))
    finally:
        subprocess.run(["ip", "route", "del", "unreachable", "192.0.2.9"], check=True)
    assert "No route to host" in said
    assert "ip route get 192.0.2.9" in said


def test_an_agent_that_is_stopped_costs_no_more_than_the_bound(
    libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent(tmp_path / "stopped", 8530) as made:
        check_consul(made.discovery())
        stop(made.process.pid)
        monkeypatch.setattr(consul, "WITHIN", 1.0)
        before = time.monotonic()
        assert "cannot be reached: no answer within 1 s" in complaint(made.discovery())
        assert time.monotonic() - before < BOUND_HOLDS_WITHIN


def test_an_answer_that_drips_is_cut_at_the_bound(plain: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul, "WITHIN", 1.0)

    def drip(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")
        for _ in range(2000):
            client.sendall(b" ")
            time.sleep(0.05)

    with server(drip) as address:
        before = time.monotonic()
        assert "no answer within 1 s" in complaint(plain.discovery(address=address))
        assert time.monotonic() - before < BOUND_HOLDS_WITHIN


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>It works!</html>", "its answer is not JSON"),
        (b"HTTP/1.1 404 Not Found\r\n\r\nno such page", "it answers 404 Not Found"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:8500/\r\n\r\n", "it answers 302 Found"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"leader": true}', "it does not say who leads"),
    ],
)
def test_what_is_not_consul_is_called_so(plain: Agent, answer: bytes, reason: str) -> None:
    with server(lambda client: client.sendall(answer)) as address:
        said = complaint(plain.discovery(address=address))
    assert f"what answers at {address} is not Consul: {reason}" in said


def test_what_does_not_speak_http_is_told(plain: Agent) -> None:
    with server(lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as address:
        assert "what answers there does not speak HTTP" in complaint(plain.discovery(address=address))
    with server(lambda client: None) as address:
        assert "it closed the connection" in complaint(plain.discovery(address=address))


def test_a_consul_without_a_leader_is_told(libvirt_uri: str, tmp_path: Path) -> None:
    with agent(tmp_path / "alone", 8530, wait=False, bootstrap_expect=3) as made:
        until(lambda: made.call("GET", "/status/leader") == "", "it answers", passing=(OSError,))
        said = complaint(made.discovery())
    assert "cannot serve: its servers have no leader" in said


def test_another_datacenter_is_told_with_the_one_that_is_there(plain: Agent) -> None:
    said = complaint(plain.discovery(datacenter="dc2"))
    assert "is not of datacenter dc2: it is of dc1" in said
    assert "network.service_discovery.datacenter" in said


def test_a_dns_port_that_is_closed_silent_or_of_another_server_is_told(plain: Agent) -> None:
    said = complaint(plain.discovery(dns_port=9))
    assert "Consul's DNS does not answer at 127.0.0.1, port 9: nothing listens there" in said
    assert "network.service_discovery.dns_port" in said
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        assert "no answer within 3 s" in complaint(plain.discovery(dns_port=silent.getsockname()[1]))
    dnsmasq = ["dnsmasq", "-k", "-C/dev/null", "-p5399", "-a127.0.0.1", "-z", "-h", "-R", "-x", ""]
    with subprocess.Popen([*dnsmasq, "-Ilo", "-u", "root"], stderr=subprocess.DEVNULL) as other:
        try:
            until(
                lambda: "is not Consul: it does not know the zone consul" in complaint(plain.discovery(dns_port=5399)),
                "the other server answers",
            )
        finally:
            other.kill()


def test_the_token_must_be_there_known_and_allowed(guarded: Agent, token: Callable[..., str]) -> None:
    check_consul(guarded.discovery(token_file=token(MASTER), datacenter="dc1"))

    said = complaint(guarded.discovery())
    assert "refuses us: it asks for an ACL token" in said
    assert "token_file" in said

    wrong = "99999999-2222-3333-4444-555555555555"
    said = complaint(guarded.discovery(token_file=token(wrong)))
    assert "it does not know the token in " in said
    assert wrong not in said

    weak = secret(guarded, 'service "other" { policy = "write" }')
    said = complaint(guarded.discovery(token_file=token(weak)))
    assert "does not allow it (no right to register hpc)" in said
    assert 'service "hpc" { policy = "write" }' in said
    assert weak not in said

    enough = secret(guarded, 'service "hpc" { policy = "write" }')
    check_consul(guarded.discovery(token_file=token(enough + "\n")))
    said = complaint(guarded.discovery(token_file=token(enough), datacenter="dc1"))
    assert 'agent_prefix "" { policy = "read" }' in said
    check_consul(
        guarded.discovery(
            token_file=token(secret(guarded, 'service "hpc" { policy = "write" } agent_prefix "" { policy = "read" }')),
            datacenter="dc1",
        )
    )


def test_a_token_that_sees_nothing_is_no_empty_consul(guarded: Agent, token: Callable[..., str]) -> None:
    mine = {"ID": "ai-how:c:n", "Name": "hpc", "Meta": {"ai-how-cluster": "c"}}
    guarded.call("PUT", "/agent/service/register", mine, token=MASTER)
    weak = secret(guarded, 'service "other" { policy = "write" }')
    assert guarded.services(weak) == {}
    with pytest.raises(HostError, match="does not allow it"):
        list_services(guarded.discovery(token_file=token(weak)), "c")
    with pytest.raises(HostError, match="asks for an ACL token"):
        list_services(guarded.discovery(), "c")
    seen = list_services(guarded.discovery(token_file=token(MASTER)), "c")
    assert list(seen) == ["ai-how:c:n"]


@pytest.mark.parametrize(
    ("text", "mode", "reason", "remedy"),
    [
        (MASTER, 0o604, "every user of this host may read it", "chmod o-rwx"),
        ("", 0o600, "it is empty", "the token's secret ID"),
        ("SecretID: x", 0o600, "it holds more than one word", "the token's secret ID"),
        ("\xff\xfe", 0o600, "it is not text", "the token's secret ID"),
    ],
)
def test_a_file_that_is_no_secret_or_no_token_is_refused(
    guarded: Agent, token: Callable[..., str], text: str, mode: int, reason: str, remedy: str
) -> None:
    said = complaint(guarded.discovery(token_file=token(text, mode)))
    assert reason in said
    assert remedy in said
    assert MASTER not in said


def test_a_token_file_for_a_group_is_taken_and_a_missing_one_named(guarded: Agent, token: Callable[..., str]) -> None:
    check_consul(guarded.discovery(token_file=token(MASTER, 0o640)))
    missing = "/run/nowhere/token"
    said = complaint(guarded.discovery(token_file=missing))
    assert f"the Consul token in {missing} cannot be used: No such file or directory" in said


def test_a_token_that_is_sent_back_does_not_reach_the_message(plain: Agent, token: Callable[..., str]) -> None:
    answer = f"HTTP/1.1 500 No\r\n\r\nyou said {MASTER}".encode()
    with server(lambda client: client.sendall(answer)) as address:
        said = complaint(plain.discovery(address=address, token_file=token(MASTER)))
    assert "500: you said (token)" in said


def test_tls_is_trusted_by_authority_and_by_name(encrypted: Agent, certificates: Path) -> None:
    right = Tls(ca_file=str(certificates / "ca.pem"), server_name="server.dc1.consul")
    check_consul(encrypted.discovery(address=encrypted.https, tls=right))

    said = complaint(encrypted.discovery(address=encrypted.https, tls=replace(right, server_name=None)))
    assert "its certificate is not for 127.0.0.1" in said
    assert "network.service_discovery.tls.server_name" in said

    other = replace(right, ca_file=str(certificates / "other.pem"))
    for tls in (other, replace(right, ca_file=None), None):
        said = complaint(encrypted.discovery(address=encrypted.https, tls=tls))
        assert "its certificate is of an authority that is not trusted" in said
        assert "network.service_discovery.tls.ca_file" in said


def test_an_expired_certificate_is_told_from_an_untrusted_one(
    libvirt_uri: str, certificates: Path, tmp_path: Path
) -> None:
    files: dict[str, Any] = {"cert_file": str(certificates / "past.pem"), "key_file": str(certificates / "past.key")}
    right = Tls(ca_file=str(certificates / "ca.pem"), server_name="server.dc1.consul")
    with agent(tmp_path / "past", 8530, **files) as made:
        said = complaint(made.discovery(address=made.https, tls=right))
    assert "its certificate is not valid now (certificate has expired)" in said


def test_a_certificate_of_ours_is_shown_where_consul_wants_one(
    libvirt_uri: str, certificates: Path, tmp_path: Path
) -> None:
    files: dict[str, Any] = {
        "cert_file": str(certificates / "server.pem"),
        "key_file": str(certificates / "server.key"),
    }
    authority: dict[str, Any] = {"ca_file": str(certificates / "ca.pem"), "verify_incoming_https": True}
    without = Tls(ca_file=str(certificates / "ca.pem"), server_name="server.dc1.consul")
    ours = replace(without, cert_file=str(certificates / "us.pem"), key_file=str(certificates / "us.key"))
    with agent(tmp_path / "wanting", 8530, **files, **authority) as made:
        check_consul(made.discovery(address=made.https, tls=ours))
        said = complaint(made.discovery(address=made.https, tls=without))
    assert "it refused us: " in said
    assert "network.service_discovery.tls.cert_file and key_file" in said


def test_http_and_https_taken_for_each_other_are_told(encrypted: Agent, plain: Agent) -> None:
    said = complaint(encrypted.discovery(address=encrypted.https.replace("https", "http")))
    assert "it speaks TLS there" in said
    assert "https://" in said
    said = complaint(plain.discovery(address=plain.address.replace("http", "https")))
    assert "what answers there does not speak TLS" in said
    assert f"http://127.0.0.1:{plain.port}" in said


def test_files_for_tls_that_cannot_be_used_are_named(encrypted: Agent, certificates: Path) -> None:
    def said(**files: str) -> str:
        return complaint(encrypted.discovery(address=encrypted.https, tls=Tls(**files)))

    assert "/run/nowhere.pem cannot be used for TLS to Consul: No such file or directory" in said(
        ca_file="/run/nowhere.pem"
    )
    assert "tls.ca_file" in said(ca_file=str(certificates / "us.key"))
    pair = {"cert_file": str(certificates / "us.pem"), "key_file": str(certificates / "server.key")}
    assert "key values mismatch" in said(**pair)
    locked = certificates / "locked.key"
    openssl("rsa", "-aes256", "-passout", "pass:secret", "-in", str(certificates / "us.key"), "-out", str(locked))
    assert "the key without a password" in said(cert_file=str(certificates / "us.pem"), key_file=str(locked))


def secret(guarded: Agent, rules: str) -> str:
    """A new token that may do what `rules` say."""
    name = f"policy-{abs(hash(rules))}"
    known = {each["Name"] for each in guarded.call("GET", "/acl/policies", token=MASTER)}
    if name not in known:
        guarded.call("PUT", "/acl/policy", {"Name": name, "Rules": rules}, token=MASTER)
    made = guarded.call("PUT", "/acl/token", {"Policies": [{"Name": name}]}, token=MASTER)
    return str(made["SecretID"])


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that takes a request and answers with `serve`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def loop() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.recv(65536)
                    serve(client)

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def make_authority(folder: Path, name: str) -> None:
    key, made = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", made, "-subj", f"/CN={name}")


def make_certificate(folder: Path, name: str, authority: str, subject: str, *words: str) -> None:
    key, request, made = (str(folder / f"{name}.{end}") for end in ("key", "csr", "pem"))
    names = folder / f"{name}.ext"
    names.write_text(f"subjectAltName=DNS:{subject}\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={subject}")
    signer = ["-CA", str(folder / f"{authority}.pem"), "-CAkey", str(folder / f"{authority}.key"), "-CAcreateserial"]
    openssl("x509", "-req", "-in", request, "-out", made, *signer, "-extfile", str(names), *words)


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
