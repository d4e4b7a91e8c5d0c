"""Secrets do not leave the host: by what they are called, and by what they look like. What names a place stays."""

from __future__ import annotations

import json
import time
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.unit.doctor_facts import MACHINE_XML, NETWORK_XML

from ai_how.diagnose.redact import REMOVED, redact, redact_all

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc/+\nxyz=\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("password=hunter2", "password=«removed»"),
        ("PASSWD: hunter2 and more", "PASSWD: «removed» and more"),
        ("x password=hunter2,file=/a", "x password=«removed»,file=/a"),
        ("auth-token = 'a b c' # why", "auth-token = '«removed»' # why"),
        ('"api_key": "a\\"b", "n": 1', '"api_key": "«removed»", "n": 1'),
        ('{"private-key":1234}', '{"private-key":«removed»}'),
        ('"{\\"secret\\": \\"a b\\", \\"n\\": 1}"', '"{\\"secret\\": \\"«removed»\\", \\"n\\": 1}"'),
        ("policy='{&quot;token&quot;:&quot;ab;c&quot;}'", "policy='{&quot;token&quot;:&quot;«removed»&quot;}'"),
        ("password=profile:x", "password=«removed»"),  # it ends like a place, and is none
        ("password=«mine»", "password=«removed»"),
        ("<passwd>s3 cret</passwd>", "<passwd>«removed»</passwd>"),
        ("<passwd type='plain'>s3cret</passwd>", "<passwd type='plain'>«removed»</passwd>"),
        ("<graphics type='vnc' passwd='a b'/>", "<graphics type='vnc' passwd='«removed»'/>"),
        ("<x:token>TOPSECRET</x:token>", "<x:token>«removed»</x:token>"),
        ("<my:password a='b'>T S</my:password>", "<my:password a='b'>«removed»</my:password>"),
        ("<a.b-c:root-pw><![CDATA[s3cret]]></a.b-c:root-pw>", "<a.b-c:root-pw><![CDATA[«removed»]]></a.b-c:root-pw>"),
        ('{"xml": "<x:token>TOPSECRET</x:token>"}', '{"xml": "<x:token>«removed»</x:token>"}'),
        ("<cmdline>root_pw=TOPSECRET</cmdline>", "<cmdline>root_pw=«removed»</cmdline>"),
        ('{"cmdline": "quiet root_pw=TOPSECRET ro"}', '{"cmdline": "quiet root_pw=«removed» ro"}'),
        ("pwd=s3cret x", "pwd=«removed» x"),
        ("rootpw: s3cret", "rootpw: «removed»"),
        ('"wpa-psk": "s3cret"', '"wpa-psk": "«removed»"'),
        ("wifi_psk=s3cret", "wifi_psk=«removed»"),
        ("access_key=s3cret", "access_key=«removed»"),
        ("auth-key: s3cret", "auth-key: «removed»"),
        ("db_pass=s3cret", "db_pass=«removed»"),
        ("join --password abc --name x", "join --password «removed» --name x"),
        ("join --token 'a b' -v", "join --token '«removed»' -v"),
        ('["join", "--password", "a b"]', '["join", "--password", "«removed»"]'),
        (
            "<q:arg value='--auth-key'/>\n <q:arg value='abc'/>",
            "<q:arg value='--auth-key'/>\n <q:arg value='«removed»'/>",
        ),
        ("https://TOKEN@host/", "https://«removed»@host/"),
        ("https://s3cret:@host/", "https://«removed»:@host/"),
        ("clone https://TOKEN@host:80/a@b", "clone https://«removed»@host:80/a@b"),
        ("https://u:p@ss@h/", "https://u:«removed»@h/"),
        ("https://u:p@ss@h?x=a@b#c@d", "https://u:«removed»@h?x=a@b#c@d"),
        ("root:$6$abcdefgh$ABCDEFGHIJ./:19000", "root:«removed»:19000"),
        ("$y$j9T$abcdefgh$ABCDEFGHIJ", "«removed»"),
        (f"a\n{KEY}\nb", "a\n«removed»\nb"),
        (KEY[:50], "«removed»"),  # cut off is still one
        ("http://me:s3cret@host/", "http://me:«removed»@host/"),
        ("redis://:s3cret@host/", "redis://:«removed»@host/"),
        ("http://host/?token=abc&x=1", "http://host/?token=«removed»&x=1"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer «removed»"),
        ("authorization: basic QWxhZGRpbg==", "authorization: basic «removed»"),
    ],
)
def test_a_secret_is_taken_out_and_nothing_else(text: str, wanted: str) -> None:
    assert redact(text) == (wanted, 1)


@pytest.mark.parametrize(
    "text",
    [
        "token_file=/etc/ai-how/token",
        "passwd_file: /etc/passwd",
        '{"token_file": "/run/token"}',
        "secret_type=raw",
        "<secret type='iscsi' uuid='0123'/>",
        "password: null, token=true, -vnc :0,password=on",
        '"password": ""',
        "http://host:8500/v1",
        "the bearer of news, basic rules",
        "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----",
        "costs $5 and $6",
        "<listen type='address' address='127.0.0.1'/> <graphics type='vnc' keymap='de' passthrough='on'/>",
        "key_mgmt=WPA-PSK ssh_authorized_keys=x pass-through: 1 compass=n spwdx=1",
        "--token-file /run/token --password --name x",
        "qemu+ssh://root@host/system sftp://me@host/ qemu+libssh2://me@host/",
        "http://host/x@y http://host?mail=a@b",
        "<x:name>web</x:name><mac address='52:54:00:00:00:01'/><source network='default'/>",
        NETWORK_XML,
        MACHINE_XML,
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == (text, 0)


def test_json_is_redacted_at_any_depth_by_name_and_by_look() -> None:
    data = {
        "a": [{"password": "x y", "token_file": "/t", "n": 1}],
        "b": "token=abc",
        "secret": "",
        "credential": "null",
        "names": {"secret-network": {"answered": True}},
    }
    clean, count = redact_all(data)
    assert clean == {
        "a": [{"password": REMOVED, "token_file": "/t", "n": 1}],
        "b": f"token={REMOVED}",
        "secret": "",
        "credential": "null",
        "names": {"secret-network": {"answered": True}},
    }
    assert count == 2
    assert redact_all(clean) == (clean, 0)


#: What passwords are made of; not what would end one on a line of settings, or begins the next setting.
_SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'<>\\"), min_size=6)
_NAME = st.sampled_from(["password", "PASSWD", "db_password", "token", "api-key", "apikey", "client_secret"])


def _is_one(text: str) -> bool:
    """Not a part of its name, and without what begins the next setting."""
    return not any(each in text for each in ",;&=:") and text.lower() not in "password token api-key client_secret"


@given(name=_NAME, secret=_SECRETS.filter(_is_one), before=st.sampled_from(["", "a=1 ", "x,", "?a=b&", "{", "\t", "-"]))
def test_a_secret_behind_its_name_never_survives(name: str, secret: str, before: str) -> None:
    for line in (f"{before}{name}={secret}", f"{before}{name}: {secret} more", f"{before}{name}={secret},file=/x"):
        clean, count = redact(line)
        assert secret not in clean
        assert count >= 1


@given(secret=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=6), name=_NAME)
def test_a_quoted_secret_of_any_characters_never_survives(secret: str, name: str) -> None:
    assume(secret.strip() not in ("", REMOVED) and not REMOVED.startswith(secret) and secret not in f'{{"{name}": "')
    text = json.dumps({name: secret})
    assert json.dumps(secret)[1:-1] not in redact(text)[0]
    within = json.dumps({"text": text})
    assert json.dumps(json.dumps(secret))[3:-3] not in redact(within)[0]
    assert secret not in str(redact_all({name: secret})[0]).replace(name, "")
    attribute = quoteattr(secret)
    assume(attribute[1:-1] not in f" {name}= />")
    assert attribute[1:-1] not in redact(f"<vnc {name}={attribute}/>")[0]


_PIECES = st.sampled_from(
    ["password=", "token: ", '"secret": "', "'", '"', "<passwd>", "</passwd>", "http://a:", "@h/", "Bearer abcdefghi",
     " ", ",", "&", "=", ":", "x", "file", "_", "\\", REMOVED, "«", "$6$abcdefgh", "&quot;", "{", "}", "\n"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_redacting_twice_is_the_same_as_once(text: str) -> None:
    once, _ = redact(text)
    assert redact(once) == (once, 0)


@pytest.mark.parametrize(
    "text",
    [
        "secret-" * 20_000,
        "password=" * 20_000,
        'token="' + "\\" * 50_000,
        "<passwd " * 20_000,
        "://" * 50_000,
        "\\" * 100_000,
        "--password " * 20_000,
        "http://a@" * 20_000,
        "://" + "a@" * 50_000,
        "<a:" * 50_000,
        "<x:token>" * 20_000,
        "'--token', " * 20_000,
        "://a:" * 20_000,
    ],
)
def test_long_texts_take_no_long_time(text: str) -> None:
    begin = time.process_time()
    redact(text)
    assert time.process_time() - begin < 5


def test_a_name_with_the_prefix_of_a_namespace_names_a_secret_in_json_too() -> None:
    assert redact_all({"x:token": "abc", "x:name": "web"}) == ({"x:token": REMOVED, "x:name": "web"}, 1)


def test_what_is_no_text_stays_as_it_is() -> None:
    data: Any = [1, 2.5, None, True]
    assert redact_all(data) == (data, 0)
