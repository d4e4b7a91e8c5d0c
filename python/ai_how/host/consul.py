"""The door to Consul: the HTTP API of one agent, and its DNS (developer.hashicorp.com/consul/api-docs).

A handful of calls over the standard library's HTTP: it takes a server name and one bound for a whole answer, which
Consul's own client libraries for Python do not. The ACL token is read when it is needed, and stands in no message.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
import ssl
import stat
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from ai_how.errors import HostError
from ai_how.resources.registration import CLUSTER, ZONE, dns_address
from ai_how.spec.policy import Discovery, Tls

#: Seconds for one answer of the HTTP API, and for each of three tries at DNS.
WITHIN = 5.0
DNS_WITHIN = 1.0
_DNS_TRIES = 3

#: Bytes of an answer that are read: ten thousand services take about five million.
_MOST = 64 * 1024 * 1024

_FIELD = "network.service_discovery"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the HTTP API, without our token should it have been in there."""

    status: int
    text: str


def check_consul(discovery: Discovery) -> None:
    """Raise HostError where nodes cannot be registered or names not be asked for. Nothing is changed."""
    try:
        _check(discovery)
    except HostError as error:
        if not discovery.required:
            raise
        remedy = f"{error.remedy}\nOr let the cluster do without, until a later up: {_FIELD}.required: false"
        raise HostError(error.what, why=error.why, remedy=remedy) from error


def list_services(discovery: Discovery, cluster: str) -> Mapping[str, Any]:
    """The agent's services that are marked as `cluster`'s, by ID. Raises HostError, also where the token sees none."""
    # An agent does not list what the token may not see, and does not say so.
    _check_rights(discovery)
    query = urlencode({"filter": f'Meta["{CLUSTER}"] == "{cluster}"'})
    return _mapping(discovery, ask(discovery, "GET", f"/v1/agent/services?{query}"))


def list_checks(discovery: Discovery) -> Mapping[str, Any]:
    """The agent's checks, by ID. Raises HostError."""
    return _mapping(discovery, ask(discovery, "GET", "/v1/agent/checks"))


def find_service(discovery: Discovery, service_id: str) -> Mapping[str, Any] | None:
    """The agent's service of this ID. Raises HostError."""
    reply = ask(discovery, "GET", f"/v1/agent/service/{quote(service_id)}")
    return None if reply.status == http.client.NOT_FOUND else _mapping(discovery, reply)


def register(discovery: Discovery, definition: Mapping[str, Any]) -> None:
    """Register a service with its check, in place of one of the same ID. Raises HostError."""
    _expect_done(discovery, ask(discovery, "PUT", "/v1/agent/service/register", definition))


def deregister(discovery: Discovery, service_id: str) -> None:
    """Take a service and its check away; no error where it is gone already. Raises HostError."""
    reply = ask(discovery, "PUT", f"/v1/agent/service/deregister/{quote(service_id)}")
    # 404 says so since Consul 1.10; before, 500 did.
    if reply.status != http.client.NOT_FOUND and not reply.text.lower().startswith("unknown service"):
        _expect_done(discovery, reply)


def ask(discovery: Discovery, method: str, path: str, body: object = None) -> Reply:
    """One request to the agent, answered within WITHIN seconds. Raises HostError where there is no answer."""
    token = read_token(discovery)
    headers = {"Accept": "application/json"} | ({} if token is None else {"X-Consul-Token": token})
    connection = _connection(discovery)
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError, AttributeError):  # closed, or not yet open
            connection.sock.shutdown(socket.SHUT_RDWR)

    # The socket's own timeout begins anew with every byte.
    timer = threading.Timer(WITHIN, cut)
    timer.daemon = True
    timer.start()
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read(_MOST).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        _explain(discovery, TimeoutError() if late.is_set() else error)
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():
        _explain(discovery, TimeoutError())
    return Reply(answer.status, text if token is None else text.replace(token, "(token)"))


def read_token(discovery: Discovery) -> str | None:
    """The ACL token, None where none is configured. Raises HostError where its file is no secret or holds no token."""
    if discovery.token_file is None:
        return None
    path = Path(discovery.token_file)
    what = f"the Consul token in {path} cannot be used"
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096).strip()
    except OSError as error:
        remedy = f"Write the token there, readable for root alone, or correct {_FIELD}.token_file."
        raise HostError(what, why=error.strerror or str(error), remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise HostError(
            what, why="it is not text", remedy="The file holds the token's secret ID and no more."
        ) from error
    if mode & stat.S_IROTH:
        raise HostError(
            what,
            why="every user of this host may read it",
            remedy=f"Take that back: chmod o-rwx {path}. If others may have read it, let Consul make a new token.",
        )
    if not text or not text.isprintable() or " " in text:
        why = "it is empty" if not text else "it holds more than one word"
        raise HostError(what, why=why, remedy="The file holds the token's secret ID and no more.")
    return text


class _Tls(http.client.HTTPConnection):
    """HTTP over TLS, for a server whose certificate may be for another name than it is asked by."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=WITHIN)
        self._context, self._name = context, name

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._name)


def _connection(discovery: Discovery) -> http.client.HTTPConnection:
    parts = urlsplit(discovery.address)
    host, port = parts.hostname or "", parts.port or 0
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=WITHIN)
    tls = discovery.tls or Tls()
    return _Tls(host, port, _context(tls), tls.server_name or host)


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise _file_trouble("ca_file", tls.ca_file, error) from error
    if tls.cert_file is not None:
        try:
            # An empty password: with none, a key that has one would be asked for at the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except OSError as error:
            raise _file_trouble("cert_file, key_file", f"{tls.cert_file}, {tls.key_file}", error) from error
    return context


def _file_trouble(field: str, path: str | None, error: OSError) -> HostError:
    why = (error.reason or "").replace("_", " ").lower() if isinstance(error, ssl.SSLError) else error.strerror
    return HostError(
        f"{path} cannot be used for TLS to Consul",
        why=why or "it is not what it should be",
        remedy=f"{_FIELD}.tls.{field}: PEM files that this user may read; the key without a password.",
    )


def _explain(discovery: Discovery, error: Exception) -> NoReturn:
    """Raise the HostError that says what `error`, met on the way to Consul, means."""
    parts = urlsplit(discovery.address)
    tls = discovery.tls or Tls()
    name = tls.server_name or parts.hostname
    correct = f"or correct {_FIELD}.address"
    match error:
        case ssl.SSLCertVerificationError(verify_code=62 | 64):  # X509_V_ERR_HOSTNAME_MISMATCH, …IP_ADDRESS_MISMATCH
            why = f"its certificate is not for {name}"
            remedy = f"Say which name it is for: {_FIELD}.tls.server_name (Consul's own: server.<datacenter>.consul)."
        case ssl.SSLCertVerificationError(verify_code=9 | 10):  # not yet valid, expired
            why = f"its certificate is not valid now ({error.verify_message})"
            remedy = "Give Consul a new one, or set this host's clock."
        case ssl.SSLCertVerificationError():
            why = f"its certificate is of an authority that is not trusted ({error.verify_message})"
            remedy = f"Name the authority's certificate: {_FIELD}.tls.ca_file."
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            why = f"it refused us: {(error.reason or '').replace('_', ' ').lower()}"
            given = "another one" if tls.cert_file else "one"
            remedy = f"Give us {given} that it trusts: {_FIELD}.tls.cert_file and key_file."
        case ssl.SSLError() if not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            why = f"what answers there does not speak TLS ({(error.reason or str(error)).replace('_', ' ').lower()})"
            remedy = f"Correct {_FIELD}.address: http://{parts.netloc}, or the port of Consul's HTTPS."
        case TimeoutError():
            why = f"no answer within {WITHIN:g} s"
            remedy = f"Look whether Consul's agent is well there: consul members; {correct}."
        case ConnectionRefusedError():
            why = "connection refused: nothing listens there"
            remedy = f"Start Consul's agent, {correct}."
        case http.client.HTTPException() if not isinstance(error, http.client.RemoteDisconnected):
            why = "what answers there does not speak HTTP"
            remedy = f"Correct {_FIELD}.address: it is the URL of Consul's HTTP API, by default on port 8500."
        case ConnectionError() | ssl.SSLError():
            why = "it closed the connection"
            remedy = f"Look at the agent's log; {correct} (http:// or https://, the port of the HTTP API)."
        case _:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            remedy = f"Look at the way there: ip route get {parts.hostname}; {correct}."
    raise HostError(f"{_name(discovery)} cannot be reached", why=why, remedy=remedy) from error


def _data(discovery: Discovery, reply: Reply) -> Any:
    _expect_done(discovery, reply)
    try:
        return json.loads(reply.text)
    except ValueError:
        _not_consul(discovery, "its answer is not JSON")


def _mapping(discovery: Discovery, reply: Reply) -> Mapping[str, Any]:
    data = _data(discovery, reply)
    if not isinstance(data, dict):
        _not_consul(discovery, "its answer has another form")
    return data


def _expect_done(discovery: Discovery, reply: Reply) -> None:
    """Raise HostError where the agent did not do what it was asked."""
    said = " ".join(reply.text.split())[:200]
    if reply.status == http.client.OK:
        return
    if reply.status == http.client.FORBIDDEN:
        _refused_token(discovery, said)
    if "HTTP request to an HTTPS server" in said:
        raise HostError(
            f"{_name(discovery)} cannot be reached",
            why="it speaks TLS there",
            remedy=f"Write https:// in {_FIELD}.address.",
        )
    if reply.status < http.client.INTERNAL_SERVER_ERROR and reply.status not in (400, 429):
        _not_consul(discovery, f"it answers {reply.status} {http.client.responses.get(reply.status, '')}".rstrip())
    raise HostError(
        f"{_name(discovery)} did not do what it was asked",
        why=f"{reply.status}: {said}" if said else f"it answered {reply.status}",
        remedy="Look at the agent's log, and whether it reaches its servers: consul members",
    )


def _refused_token(discovery: Discovery, said: str) -> NoReturn:
    if discovery.token_file is None:
        why = f"it asks for an ACL token ({said})"
        remedy = f"Write one into a file that only root may read, and name it: {_FIELD}.token_file."
    elif "not found" in said.lower():
        why = f"it does not know the token in {discovery.token_file} ({said})"
        remedy = "Write a valid token there: its secret ID, as `consul acl token create` shows it."
    else:
        why = f"the token in {discovery.token_file} does not allow it ({said})"
        remedy = f"Give it a policy with: {_rule(discovery)}"
    raise HostError(f"{_name(discovery)} refuses us", why=why, remedy=remedy)


def _rule(discovery: Discovery) -> str:
    agent = ' agent_prefix "" { policy = "read" }' if discovery.datacenter is not None else ""
    return f'service "{discovery.service_name}" {{ policy = "write" }}{agent}'


def _not_consul(discovery: Discovery, why: str) -> NoReturn:
    raise HostError(
        f"what answers at {discovery.address} is not Consul",
        why=why,
        remedy=f"Correct {_FIELD}.address: it is the URL of Consul's HTTP API, by default on port 8500.",
    )


def _check(discovery: Discovery) -> None:
    leader = _data(discovery, ask(discovery, "GET", "/v1/status/leader"))
    if not isinstance(leader, str):
        _not_consul(discovery, "it does not say who leads")
    if not leader:
        raise HostError(
            f"{_name(discovery)} cannot serve",
            why="its servers have no leader",
            remedy="Look at them: consul operator raft list-peers. When they have elected one, run this again.",
        )
    _check_datacenter(discovery)
    _check_rights(discovery)
    _check_dns(discovery)


def _check_datacenter(discovery: Discovery) -> None:
    if discovery.datacenter is None:
        return
    there = _mapping(discovery, ask(discovery, "GET", "/v1/agent/self")).get("Config", {}).get("Datacenter")
    if there != discovery.datacenter:
        raise HostError(
            f"{_name(discovery)} is not of datacenter {discovery.datacenter}",
            why=f"it is of {there}",
            remedy=f"Correct {_FIELD}.datacenter, or {_FIELD}.address to an agent of that datacenter.",
        )


def _check_rights(discovery: Discovery) -> None:
    """Raise HostError where the token may not register the service. Agents without ACLs allow everything."""
    wish = [{"Resource": "service", "Access": "write", "Segment": discovery.service_name}]
    reply = ask(discovery, "POST", "/v1/internal/acl/authorize", wish)
    # 401: ACLs are off. 404 and 405: before Consul 1.8 nobody could ask; the agent refuses when it comes to it.
    if reply.status in (401, 404, 405):
        return
    answers = _data(discovery, reply)
    if not (isinstance(answers, list) and answers and all(each.get("Allow") is True for each in answers)):
        _refused_token(discovery, f"no right to register {discovery.service_name}")


def _check_dns(discovery: Discovery) -> None:
    where = f"{dns_address(discovery)}, port {discovery.dns_port}"
    try:
        code = _ask_dns(str(dns_address(discovery)), discovery.dns_port)
    except OSError as error:
        silent = isinstance(error, TimeoutError)
        closed = isinstance(error, ConnectionRefusedError)
        raise HostError(
            f"Consul's DNS does not answer at {where}",
            why=f"no answer within {DNS_WITHIN * _DNS_TRIES:g} s"
            if silent
            else ("nothing listens there" if closed else error.strerror or str(error)),
            remedy=f"Correct {_FIELD}.dns_port to the agent's ports.dns (8600 if not configured), and let it listen on "
            "this address: client_addr.",
        ) from error
    if code != 0:
        raise HostError(
            f"what answers DNS at {where} is not Consul",
            why=f"it does not know the zone {ZONE} (RCODE {code})",
            remedy=f"Correct {_FIELD}.dns_port. An agent with another `domain` than {ZONE} cannot be used.",
        )


def _ask_dns(host: str, port: int) -> int:
    """The response code to the question for the SOA record of Consul's zone (RFC 1035, 4.1). Raises OSError."""
    number = secrets.randbits(16)
    question = struct.pack(">6H", number, 0, 1, 0, 0, 0) + bytes([len(ZONE)]) + ZONE.encode() + b"\0\0\x06\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((host, port))
        asking.settimeout(DNS_WITHIN)
        for left in reversed(range(_DNS_TRIES)):
            asking.send(question)
            try:
                answer = asking.recv(4096)
            except TimeoutError:
                if not left:
                    raise
                continue
            if len(answer) >= 12 and answer[:2] == question[:2] and answer[2] & 0x80:
                return answer[3] & 0x0F
    raise TimeoutError


def _name(discovery: Discovery) -> str:
    return f"Consul at {discovery.address}"
