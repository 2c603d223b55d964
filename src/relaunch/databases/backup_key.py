"""The key backups are encrypted with: an age identity (https://age-encryption.org/v1), made without the age program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

PRIVATE, PUBLIC = "BACKUP_KEY", "BACKUP_RECIPIENT"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class KeyVault(Protocol):
    def has_credential(self, name: str) -> bool: ...
    def set_credential(self, name: str, value: str, *, description: str = "") -> None: ...


def ensure_backup_key(vault: KeyVault) -> None:
    """Both halves in the vault; a private key that is there is never replaced."""
    if vault.has_credential(PRIVATE):
        return
    identity, recipient = new_identity()
    vault.set_credential(PUBLIC, recipient, description="backups are encrypted to it (age)")
    vault.set_credential(PRIVATE, identity, description="opens backups (age); keep a copy outside: db backup-key")


def new_identity() -> tuple[str, str]:
    """(AGE-SECRET-KEY-1…, age1…): the private key and the public one, as age-keygen makes them."""
    key = X25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return bech32("age-secret-key-", secret).upper(), bech32("age", public)


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
