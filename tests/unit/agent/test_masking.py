from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaunch_agent.masking import Masker


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_value_in_two_pieces_is_masked(cut: int) -> None:
    text = b"pw=correct-horse; next"
    masker = Masker(["correct-horse"])
    shown = masker.feed(text[:cut]) + masker.feed(text[cut:]) + masker.feed(b"", last=True)
    assert shown.decode() == "pw=•••; next"


def test_the_longest_value_wins() -> None:
    masker = Masker(["abcd", "abcdefgh"])
    assert (masker.feed(b"abcd") + masker.feed(b"efgh abcd!", last=True)).decode() == "••• •••!"


def test_short_values_and_no_secrets_change_nothing() -> None:
    assert Masker(["abc", ""]).feed(b"abc") == b"abc"


def test_each_line_of_a_key_is_a_secret() -> None:
    masker = Masker(["-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\n"])
    assert masker.feed(b"  MIIEvQIBADANBgkqhkiG\nshort", last=True).decode() == "  •••\nshort"


@given(st.lists(st.text("ab1", min_size=4, max_size=6), max_size=3), st.text("ab1", max_size=60), st.data())
def test_no_secret_is_ever_shown_however_it_is_cut(secrets: list[str], text: str, data: st.DataObject) -> None:
    masker, left, shown = Masker(secrets), text.encode(), b""
    while left:
        size = data.draw(st.integers(1, len(left)))
        shown += masker.feed(left[:size])
        left = left[size:]
    shown += masker.feed(b"", last=True)
    assert not any(secret in part for secret in secrets for part in shown.decode().split("•••"))
    if not any(secret in text for secret in secrets):
        assert shown.decode() == text
