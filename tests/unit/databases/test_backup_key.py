"""The age identity: what age itself says of the same bytes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping

import pytest

from relaunch.databases.backup_key import (
    PRIVATE,
    PUBLIC,
    bech32,
    ensure_backup_key,
    fault_of_pair,
    new_identity,
    set_backup_key,
)
from relaunch.errors import BadInput


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


class Vault(dict[str, str]):
    def has_credential(self, name: str) -> bool:
        return name in self

    def credential(self, name: str) -> str:
        return self[name]

    def set_credentials(self, values: Mapping[str, tuple[str, str]]) -> None:
        self.update({name: value for name, (value, _) in values.items()})


def test_a_key_that_is_there_is_never_replaced(caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault()

    ensure_backup_key(vault)
    first = dict(vault)
    ensure_backup_key(vault)

    assert vault == first
    assert first[PRIVATE].startswith("AGE-SECRET-KEY-1") and first[PUBLIC].startswith("age1")
    assert len(first[PRIVATE]) == 74 and len(first[PUBLIC]) == 62  # as age-keygen prints them
    assert fault_of_pair(vault) == "" and caplog.records == []


def test_age_itself_opens_with_the_former_key_what_was_encrypted_to_it() -> None:
    if not shutil.which("age"):
        pytest.skip("age is not installed")
    vault, (saved, recipient) = Vault(), new_identity()
    ensure_backup_key(vault)
    sealed = [
        subprocess.run(["age", "-r", each], input=each.encode(), capture_output=True, check=True).stdout
        for each in (vault[PUBLIC], recipient)
    ]
    before = vault[PUBLIC]

    set_backup_key(vault, saved)

    with tempfile.NamedTemporaryFile("w") as key:
        print(vault[PRIVATE], file=key, flush=True)
        opened = [
            subprocess.run(["age", "-d", "-i", key.name], input=each, capture_output=True, check=True).stdout.decode()
            for each in sealed
        ]
    assert opened == [before, recipient]


def test_the_recipient_goes_with_the_key_and_former_keys_stay() -> None:
    vault, (saved, recipient) = Vault(), new_identity()
    ensure_backup_key(vault)
    first = dict(vault)

    assert set_backup_key(vault, f"# created by age-keygen\n{saved}\n") == recipient
    assert vault == {PRIVATE: f"{saved}\n{first[PRIVATE]}", PUBLIC: recipient}

    set_backup_key(vault, first[PRIVATE])
    assert vault == {PRIVATE: f"{first[PRIVATE]}\n{saved}", PUBLIC: first[PUBLIC]}

    set_backup_key(vault, f"{saved}\n{first[PRIVATE]}")
    assert vault == {PRIVATE: f"{saved}\n{first[PRIVATE]}", PUBLIC: recipient}


@pytest.mark.parametrize("fault", ["", "# nothing", "secret", "age", "typed", "half"])
def test_what_is_no_key_is_refused_and_changes_nothing(fault: str) -> None:
    vault, (identity, recipient) = Vault(), new_identity()
    ensure_backup_key(vault)
    before = dict(vault)
    wrong = {
        "age": recipient, "half": identity[:-1], "typed": identity[:20] + ("A" if identity[20] != "A" else "C")
        + identity[21:],
    }.get(fault, fault)  # fmt: skip

    with pytest.raises(BadInput) as raised:
        set_backup_key(vault, wrong)

    assert vault == before
    assert not wrong or wrong not in str(raised.value)


def test_one_that_was_damaged_before_does_not_stay_beside_a_right_one() -> None:
    vault, (saved, recipient) = Vault({PRIVATE: "secret", PUBLIC: "age1"}), new_identity()
    assert "no age identity" in fault_of_pair(vault)

    set_backup_key(vault, saved)

    assert vault == {PRIVATE: saved, PUBLIC: recipient}


def test_halves_that_do_not_belong_together_are_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault({PRIVATE: new_identity()[0], PUBLIC: new_identity()[1]})
    before = dict(vault)

    ensure_backup_key(vault)

    assert vault == before
    assert "BACKUP_RECIPIENT is not the public half of BACKUP_KEY" in caplog.text
    assert before[PRIVATE] not in caplog.text


def test_a_private_half_that_is_gone_is_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault({PUBLIC: new_identity()[1]})

    ensure_backup_key(vault)

    assert "BACKUP_KEY was gone and is made anew" in caplog.text
    assert fault_of_pair(vault) == ""
