"""The age identity: what age itself says of the same bytes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from relaunch.databases.backup_key import PRIVATE, PUBLIC, bech32, ensure_backup_key, new_identity


def test_the_text_form_is_that_of_the_standard() -> None:
    # From BIP 173's own list of valid strings.
    assert bech32("a", b"") == "a12uel5l"
    # BIP 173's version 1 example without its version word: the same twenty bytes in words.
    assert bech32("bc", bytes.fromhex("751e76e8199196d454941c45d1b3a323f1433bd6"))[:-6] == (
        "bc1w508d6qejxtdg4y5r3zarvary0c5xw7k"
    )


def test_age_itself_derives_the_same_recipient() -> None:
    if not shutil.which("age-keygen"):
        pytest.skip("age is not installed")
    identity, recipient = new_identity()

    derived = subprocess.run(["age-keygen", "-y"], input=identity, capture_output=True, text=True, check=True)

    assert derived.stdout.strip() == recipient


def test_a_key_that_is_there_is_never_replaced() -> None:
    class Vault(dict[str, str]):
        def has_credential(self, name: str) -> bool:
            return name in self

        def set_credential(self, name: str, value: str, *, description: str = "") -> None:
            self[name] = value

    vault = Vault()

    ensure_backup_key(vault)
    first = dict(vault)
    ensure_backup_key(vault)

    assert vault == first
    assert first[PRIVATE].startswith("AGE-SECRET-KEY-1") and first[PUBLIC].startswith("age1")
    assert len(first[PRIVATE]) == 74 and len(first[PUBLIC]) == 62  # as age-keygen prints them
