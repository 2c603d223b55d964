"""Encryption at rest with the controller's master key, and the named credentials (implements `servers.ports.Vault`)."""

from __future__ import annotations

import base64
import os
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.controller.certificates import write_private
from relaunch.controller.log import Secrets
from relaunch.controller.times import stamp
from relaunch.errors import BadInput, Failed, NotFound
from relaunch.records.schema import credentials
from relaunch.servers.inputs import OPEN_CREDENTIALS

NONCE_BYTES = 12
GENERATED_LENGTH = 32
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
LONGEST_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What may be shown of a credential: everything but its value."""

    name: str
    created: str
    changed: str
    description: str


class SealedVault:
    def __init__(self, database: Engine, master_key: bytes, clock: Clock, known: Secrets) -> None:
        self._database = database
        self._cipher = AESGCM(master_key)
        self._clock = clock
        self._known = known

    def seal(self, clear: bytes) -> str:
        nonce = os.urandom(NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, clear, None)).decode()

    def unseal(self, sealed: str) -> bytes:
        raw = base64.b64decode(sealed)
        try:
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None)
        except InvalidTag:
            raise Failed(
                "a sealed value cannot be opened with this master key",
                hint="put back the master.key that belongs to this database",
            ) from None

    def credential(self, name: str) -> str:
        """The value; NotFound says how to create it."""
        with self._database.connect() as connection:
            sealed = connection.execute(
                select(credentials.c.sealed).where(credentials.c.name == name)
            ).scalar_one_or_none()
        if sealed is None:
            raise NotFound(f"no credential {name}", hint=f"create it: relaunch credential set {name}")
        value = self.unseal(sealed).decode()
        self._remember(name, value)
        return value

    def has_credential(self, name: str) -> bool:
        with self._database.connect() as connection:
            return connection.execute(select(1).where(credentials.c.name == name)).first() is not None

    def generate_credential(self, name: str, *, who: str) -> None:
        """A random one, 32 letters and digits; nothing happens when it exists."""
        if self.has_credential(name):
            return
        letters = string.ascii_letters + string.digits
        value = "".join(secrets.choice(letters) for _ in range(GENERATED_LENGTH))
        self.set_credential(name, value, description=f"generated for {who}")

    def set_credential(self, name: str, value: str, *, description: str = "") -> None:
        self.set_credentials({name: (value, description)})

    def set_credentials(self, values: Mapping[str, tuple[str, str]]) -> None:
        """All of these or none; each: value, description."""
        for name, (value, _) in values.items():
            self._check(name, value)
            self._remember(name, value)
        now = stamp(self._clock.now())
        with self._database.begin() as connection:
            for name, (value, description) in values.items():
                new = {"sealed": self.seal(value.encode()), "changed": now, "description": description}
                changed = connection.execute(update(credentials).where(credentials.c.name == name).values(new))
                if changed.rowcount == 0:
                    connection.execute(insert(credentials).values(name=name, created=now, **new))

    def _check(self, name: str, value: str) -> None:
        if not NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no name for a credential", hint="a letter, then letters, digits, _ . -")
        if not value or len(value.encode()) > LONGEST_BYTES:
            raise BadInput(f"the value of {name} must have 1 to {LONGEST_BYTES} bytes")

    def _remember(self, name: str, value: str) -> None:
        if name not in OPEN_CREDENTIALS:
            self._known.remember(value)

    def delete_credential(self, name: str) -> None:
        with self._database.begin() as connection:
            if connection.execute(delete(credentials).where(credentials.c.name == name)).rowcount == 0:
                raise NotFound(f"no credential {name}")

    def list_credentials(self) -> list[Credential]:
        c = credentials.c
        with self._database.connect() as connection:
            rows = connection.execute(select(c.name, c.created, c.changed, c.description).order_by(c.name))
            return [Credential(**row) for row in rows.mappings()]


def master_key(file: Path) -> bytes:
    """The 256-bit key in `file`, made at the first start."""
    if not file.exists():
        write_private(file, AESGCM.generate_key(bit_length=256))
    key = file.read_bytes()
    if len(key) != 32:
        raise Failed(f"{file} is damaged: {len(key)} bytes instead of 32", hint="restore it from your backup")
    return key
