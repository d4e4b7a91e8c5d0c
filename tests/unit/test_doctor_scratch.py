"""What is remembered of our firewall is only loaded where it is nft's JSON: of anything else nft says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ai_how.diagnose.ask import scratch
from ai_how.errors import HostError


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that got as far as nft, which would take root."""
    texts: list[str] = []

    def output(_argv: list[str], *, text: str, **_more: Any) -> str:
        texts.append(text)
        return ""

    monkeypatch.setattr(scratch, "output", output)
    return texts


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "null\n", "[]", "5", '"nftables"', '{"a": 1}', '{"nftables": []}\nnull', "[" * 200_000],
)
def test_what_is_no_transaction_of_nfts_is_spoilt(text: str, loaded: list[str]) -> None:
    with pytest.raises(HostError, match="the remembered firewall rules cannot be read"):
        scratch.list_as_loaded(text)
    assert loaded == []


@pytest.mark.parametrize("text", ['{"nftables": []}', '{"nftables": []}\n{"nftables": []}\n'])
def test_transactions_of_nfts_are_loaded(text: str, loaded: list[str]) -> None:
    assert scratch.list_as_loaded(text) == '{"nftables": []}'
    assert loaded == [text]
