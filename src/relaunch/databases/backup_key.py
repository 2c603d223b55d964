"""The key backups are encrypted with: an age identity (https://age-encryption.org/v1), made without the age program."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from relaunch.errors import BadInput

log = logging.getLogger("relaunch.backups")

# The private key may be several identities, one a line, as age reads them: the present one first, then former ones,
# which open what was encrypted to them.
PRIVATE, PUBLIC = "BACKUP_KEY", "BACKUP_RECIPIENT"
_PREFIX = "age-secret-key-"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class ReadVault(Protocol):
    def credential(self, name: str) -> str: ...
    def has_credential(self, name: str) -> bool: ...


class KeyVault(ReadVault, Protocol):
    def set_credentials(self, values: Mapping[str, tuple[str, str]]) -> None: ...


def ensure_backup_key(vault: KeyVault) -> None:
    """Both halves in the vault; a private key that is there is never replaced. What is wrong with them is logged."""
    if not vault.has_credential(PRIVATE):
        if vault.has_credential(PUBLIC):
            log.error("%s was gone and is made anew: backups of before need the one from your safe", PRIVATE)
        _put(vault, (new_identity()[0],))
    if fault := fault_of_pair(vault):
        log.error("%s", fault)


def set_backup_key(vault: KeyVault, text: str) -> str:
    """The recipient that goes with it, set too; the former identities are kept. BadInput when it is no age identity."""
    given = identities(text)
    former = vault.credential(PRIVATE).splitlines() if vault.has_credential(PRIVATE) else []
    return _put(vault, dict.fromkeys((*given, *filter(_is_identity, former))))


def fault_of_pair(vault: ReadVault) -> str:
    """Why backups may be encrypted to a key that is not here; "" when both halves belong together."""
    hint = f"relaunch credential set {PRIVATE}, then relaunch the database servers, then make a full backup"
    try:
        recipient = recipient_of(identities(vault.credential(PRIVATE))[0]) if vault.has_credential(PRIVATE) else ""
    except BadInput as error:
        return f"{error.message}: {hint}"
    if vault.has_credential(PUBLIC) and vault.credential(PUBLIC) == recipient:
        return ""
    return f"{PUBLIC} is not the public half of {PRIVATE}, so that backups can be opened by no key that is here: {hint}"


def opens(vault: ReadVault, recipient: str) -> bool:
    """Whether what was encrypted to this recipient can be opened here."""
    kept = vault.credential(PRIVATE).splitlines() if vault.has_credential(PRIVATE) else []
    return recipient in {recipient_of(line) for line in kept if _is_identity(line)}


def identities(text: str) -> tuple[str, ...]:
    """Those of an identity file, whose comments do not count; BadInput when a line is none."""
    lines = [line.strip() for line in text.splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    for line in found:
        recipient_of(line)
    if not found:
        raise BadInput(f"{PRIVATE} is empty", hint="give the private key, AGE-SECRET-KEY-1…")
    return found


def _is_identity(line: str) -> bool:
    """age reads none of a file in which one line is not."""
    try:
        recipient_of(line)
    except BadInput:
        return False
    return True


def recipient_of(identity: str) -> str:
    """age1…, the public half; BadInput when it is no AGE-SECRET-KEY-1… (the message does not repeat it)."""
    words = [_ALPHABET.find(letter) for letter in identity.lower().removeprefix(f"{_PREFIX}1")]
    bits = 0
    for word in words[:-6]:
        bits = bits << 5 | max(word, 0)
    secret = (bits >> 4).to_bytes(33, "big")[-32:] if len(words) == 58 else b""
    if len(words) != 58 or identity != bech32(_PREFIX, secret).upper():
        hint = "the private key as `relaunch db backup-key` showed it; a typing error is noticed"
        raise BadInput(f"{PRIVATE} has a line that is no age identity (AGE-SECRET-KEY-1…)", hint=hint)
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return bech32("age", public)


def _put(vault: KeyVault, kept: Iterable[str]) -> str:
    kept = tuple(kept)
    recipient = recipient_of(kept[0])
    vault.set_credentials(
        {
            PUBLIC: (recipient, "backups are encrypted to it (age)"),
            PRIVATE: ("\n".join(kept), "opens backups (age); keep a copy outside: db backup-key"),
        }
    )
    return recipient


def new_identity() -> tuple[str, str]:
    """(AGE-SECRET-KEY-1…, age1…): the private key and the public one, as age-keygen makes them."""
    key = X25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    identity = bech32(_PREFIX, secret).upper()
    return identity, recipient_of(identity)


def bech32(prefix: str, data: bytes) -> str:
    """The text form (BIP 173) of these bytes."""
    bits = int.from_bytes(data, "big") << (-len(data) * 8 % 5)
    count = (len(data) * 8 + 4) // 5
    words = [bits >> 5 * (count - 1 - place) & 31 for place in range(count)]
    expanded = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    check = _polymod([*expanded, *words, 0, 0, 0, 0, 0, 0]) ^ 1
    words += [check >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{prefix}1" + "".join(_ALPHABET[word] for word in words)


def _polymod(words: Sequence[int]) -> int:
    check = 1
    for word in words:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for place, value in enumerate(_GENERATOR):
            check ^= value if top >> place & 1 else 0
    return check
