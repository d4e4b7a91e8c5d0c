"""Secrets taken out of what is sent elsewhere: by what they are called, and by what they look like."""

from __future__ import annotations

import json
import re
from typing import Any

REMOVED = "«removed»"

#: Words that name a secret, as keys of settings, options and attributes. The short ones only where a word ends.
_WORDS = (
    r"passw(?:or)?d|passphrase|secret|token|credential|(?:api|private|access|auth)[_-]?key|"
    r"(?:pwd?|psk)(?![a-z])|[_-]pass(?![a-z-])"
)
_NAMES = rf"(?=[\w-]*?(?:{_WORDS}))[\w-]++"
#: How a text in a text is quoted: as it is, in JSON's strings, in XML's attributes.
_QUOTE = r"(?:\\*[\"']|&quot;|&apos;|&#3[49];)"
_LEFT = rf"(?!{REMOVED})"
_PATTERNS = (
    # A block in PEM (RFC 7468) that is somebody's key.
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # Hashed passwords (crypt(5)).
    re.compile(r"\$(?:1|2[abxy]?|5|6|y|7|gy)\$[./A-Za-z0-9$,=+-]{8,}"),
    # What stands behind such a name: name="value", "name": "value", name='value', up to the same quote.
    re.compile(
        rf"""(?is)(?<![\w-])(?P<name>{_NAMES}){_QUOTE}?\s*[=:]\s*(?P<quote>{_QUOTE})"""
        rf"""{_LEFT}(?P<secret>(?:(?!(?P=quote))(?:\\.|[^\n]))+)"""
    ),
    # "name": value
    re.compile(rf"(?i)(?<![\w-])(?P<name>{_NAMES}){_QUOTE}\s*:\s*{_LEFT}(?P<secret>[^\s\"'\\&,}}\]]+)"),
    # name=value, name: value, up to the next of the kind.
    re.compile(
        rf"""(?i)(?<![\w-])(?P<name>{_NAMES})\s*[=:]\s*(?!{_QUOTE})"""
        rf"""{_LEFT}(?P<secret>(?:(?![,;&][a-z][\w.-]*[=:])[^\s"'<>])+)"""
    ),
    # --name value
    re.compile(rf"""(?i)(?<![\w-])--?(?P<name>{_NAMES})\s+(?!-|{_QUOTE}){_LEFT}(?P<secret>[^\s"'<>]+)"""),
    # --name "value"
    re.compile(
        rf"""(?is)(?<![\w-])--?(?P<name>{_NAMES})\s+(?P<quote>{_QUOTE})"""
        rf"""{_LEFT}(?P<secret>(?:(?!(?P=quote))(?:\\.|[^\n]))+)"""
    ),
    # "--name", "value", and the same as libvirt has it: <arg value='--name'/> <arg value='value'/>
    re.compile(
        rf"""(?is)(?<!\\)(?P<quote>{_QUOTE})--?(?P<name>{_NAMES})(?P=quote)(?:\s*,\s*|\s*/>\s*<[\w:.-]+\s+value=)(?P=quote)"""
        rf"""{_LEFT}(?P<secret>(?:(?!(?P=quote))(?:\\.|[^\n]))+)"""
    ),
    # <passwd>value</passwd>, <of:passwd>value</of:passwd>
    re.compile(
        rf"(?i)<(?:[\w.-]+:)?(?P<name>{_NAMES})(?:\s[^<>]*)?>(?:\s*<!\[CDATA\[)?"
        rf"{_LEFT}(?P<secret>[^<>]*[^<>\s][^<>]*)(?:</|<\\+/|\]\]>)"
    ),
    # What a URL has before its host, user:password@: up to the last @, since a password may have some.
    re.compile(rf"(?<=://)[^/?#\s:]*:{_LEFT}(?P<secret>[^/?#\s]+)(?=@)"),
    # Without a password it is a token, but for those whom SSH calls by their names.
    re.compile(rf"""(?i)(?<!ssh)(?<!ssh2)(?<!sftp)://{_LEFT}(?P<secret>[^/?#\s:"'<>,]+)(?=:?@)"""),
    # Bearer tokens, and Basic ones, of HTTP (RFC 6750, RFC 7617).
    re.compile(r"(?i)\b(?:bearer|basic)\s+(?P<secret>[A-Za-z0-9._~+/=-]{8,})"),
)

#: Names that say where a secret is, or which, and not what it is.
_PLACES = re.compile(r"(?i)(?:file|path|[_-]dir|uuid|usage|type)$")
_NO_SECRETS = frozenset({"null", "true", "false", "none", "yes", "no", "on", "off"})


def redact(text: str) -> tuple[str, int]:
    """The text without secrets, and how many were taken out."""
    count = 0

    def without(match: re.Match[str]) -> str:
        nonlocal count
        groups = match.groupdict()
        if "secret" in groups:
            if _PLACES.search(groups.get("name") or "") or groups["secret"].rstrip(",;.").lower() in _NO_SECRETS:
                return match[0]
            start, end = match.start("secret") - match.start(), match.end("secret") - match.start()
            count += 1
            return match[0][:start] + REMOVED + match[0][end:]
        count += 1
        return REMOVED

    for pattern in _PATTERNS:
        text = pattern.sub(without, text)
    return text, count


def redact_all(data: Any) -> tuple[Any, int]:
    """The same of every text in JSON data, and of what stands behind a name that names a secret."""
    match data:
        case str():
            return redact(data)
        case dict():
            found, total = {}, 0
            for name, value in data.items():
                plain = isinstance(value, str) and value not in ("", REMOVED)
                secret = plain and _names_secret(str(name)) and not _is_document(value)
                if secret and value.lower() not in _NO_SECRETS:
                    found[name], count = REMOVED, 1
                else:
                    found[name], count = redact_all(value)
                total += count
            return found, total
        case list():
            pairs = [redact_all(each) for each in data]
            return [each for each, _ in pairs], sum(count for _, count in pairs)
        case _:
            return data, 0


def _names_secret(name: str) -> bool:
    name = name.rpartition(":")[2]  # without the prefix of a namespace
    return bool(re.fullmatch(f"(?i){_NAMES}", name)) and not _PLACES.search(name)


def _is_document(value: str) -> bool:
    """Whether it is JSON with something in it: the leases of a bridge that is called so, say."""
    try:
        return isinstance(json.loads(value), dict | list)
    except ValueError:
        return False
