"""Who may talk to the API: bearer tokens, of which only the hash is kept."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from relaunch.clock import Clock
from relaunch.controller.certificates import write_private
from relaunch.controller.times import stamp
from relaunch.errors import BadInput, Conflict, NotAllowed, NotFound
from relaunch.records.schema import tokens
from relaunch.workflows.tasks import WHO

ADMIN = "admin"
LAST_USED_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What may be shown of a token."""

    name: str
    created: str
    last_used: str | None


class Tokens:
    def __init__(self, database: Engine, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._last_written: dict[str, float] = {}

    def create(self, name: str) -> str:
        """A new token for `name`; the only time it can be read."""
        if not name or len(name) > 64 or not name.isprintable() or ":" in name:
            raise BadInput(f"{name!r} is no name for a token", hint="up to 64 printable characters without a colon")
        if name == WHO:
            raise BadInput(f"{name!r} is the name of what the controller does by itself", hint="choose another name")
        token = f"rl_{secrets.token_urlsafe(32)}"
        self._store(name, token)
        return token

    def _store(self, name: str, token: str) -> None:
        with self._database.begin() as connection:
            if connection.execute(select(1).where(tokens.c.name == name)).first():
                raise Conflict(f"a token named {name} exists or has existed", hint="names show up in the audit trail")
            connection.execute(
                insert(tokens).values(
                    id=str(uuid.uuid4()), name=name, sha256=digest(token), created=stamp(self._clock.now())
                )
            )

    def who(self, token: str) -> str:
        """The name behind a token; NotAllowed when it is unknown or revoked."""
        asked = digest(token)
        with self._database.connect() as connection:
            rows = connection.execute(select(tokens.c.name, tokens.c.sha256).where(tokens.c.revoked.is_(None))).all()
        found = [name for name, sha256 in rows if hmac.compare_digest(sha256, asked)]
        if not found:
            raise NotAllowed("this token is unknown or revoked", hint="the first one is in <state>/admin-token")
        self._note_use(found[0])
        return str(found[0])

    def _note_use(self, name: str) -> None:
        now = self._clock.now()
        if now.timestamp() - self._last_written.get(name, 0.0) < LAST_USED_EVERY_SECONDS:
            return
        self._last_written[name] = now.timestamp()
        # With a full disk whoever has a token may still read.
        with contextlib.suppress(OperationalError), self._database.begin() as connection:
            connection.execute(update(tokens).where(tokens.c.name == name).values(last_used=stamp(now)))

    def revoke(self, name: str) -> None:
        with self._database.begin() as connection:
            present = tokens.c.revoked.is_(None)
            others = connection.execute(select(1).where(present, tokens.c.name != name)).first()
            if connection.execute(select(1).where(present, tokens.c.name == name)).first() is None:
                raise NotFound(f"no token named {name}")
            if others is None:
                raise Conflict("this is the last token", hint="create another one first, or nobody can log in")
            connection.execute(update(tokens).where(tokens.c.name == name).values(revoked=stamp(self._clock.now())))

    def list_tokens(self) -> list[Token]:
        c = tokens.c
        with self._database.connect() as connection:
            rows = connection.execute(
                select(c.name, c.created, c.last_used).where(c.revoked.is_(None)).order_by(c.name)
            )
            return [Token(**row) for row in rows.mappings()]

    def ensure_admin(self, file: Path) -> None:
        """The first start leaves a token for whoever may read root's files."""
        with self._database.connect() as connection:
            if connection.execute(select(1).select_from(tokens)).first():
                return
        if not file.exists():
            write_private(file, f"rl_{secrets.token_urlsafe(32)}\n".encode())
        self._store(ADMIN, file.read_text().strip())  # a kill between the two leaves a file that is taken up here


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
