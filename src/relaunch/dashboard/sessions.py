"""Who is looking: a signed cookie opened with an API token, its CSRF token, and the limit on tries."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_hex

COOKIE = "__Host-relaunch"  # the prefix makes browsers insist on Secure, Path=/ and no Domain
LIFETIME = timedelta(hours=12)
TRIES = 5
TRIES_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """`who` is the name of the token it was opened with."""

    id: str
    who: str
    opened: datetime


def opened(who: str, now: datetime) -> Session:
    return Session(id=token_hex(16), who=who, opened=now)


def sealed(session: Session, key: bytes) -> str:
    """The cookie's value: readable by its owner, changeable by nobody."""
    body = json.dumps([session.id, session.who, session.opened.isoformat()]).encode()
    return f"{_text(body)}.{_text(_signature(body, key))}"


def unsealed(cookie: str, key: bytes, now: datetime) -> Session | None:
    """None when it was not sealed with `key` or is older than LIFETIME."""
    try:
        body, signature = (_bytes(part) for part in cookie.split("."))
    except (ValueError, binascii.Error):
        return None
    if not hmac.compare_digest(signature, _signature(body, key)):
        return None
    id, who, at = json.loads(body)
    session = Session(id=id, who=who, opened=datetime.fromisoformat(at))
    return session if now - session.opened < LIFETIME else None


def csrf_token(session: Session, key: bytes) -> str:
    return hmac.new(key, b"csrf:" + session.id.encode(), hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Equal, found out in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _signature(body: bytes, key: bytes) -> bytes:
    return hmac.new(key, b"session:" + body, hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


@dataclass(slots=True)
class LoginTries:
    """Failed tries by address: TRIES within TRIES_WITHIN, then none is looked at until the oldest is that old."""

    failed: dict[str, list[datetime]] = field(default_factory=dict)

    def wait(self, address: str, now: datetime) -> timedelta:
        """How long this address has to wait before its next try; zero when it need not."""
        recent = [at for at in self.failed.get(address, []) if now - at < TRIES_WITHIN]
        return TRIES_WITHIN - (now - recent[-TRIES]) if len(recent) >= TRIES else timedelta()

    def note_failure(self, address: str, now: datetime) -> None:
        self.failed = {
            who: recent
            for who, all_tries in self.failed.items()
            if (recent := [at for at in all_tries if now - at < TRIES_WITHIN])
        }
        self.failed.setdefault(address, []).append(now)


@dataclass(slots=True)
class EndedSessions:
    """Sessions logged out before their time; forgotten once their cookie would be refused for its age."""

    until: dict[str, datetime] = field(default_factory=dict)

    def end(self, session: Session, now: datetime) -> None:
        self.until = {id: at for id, at in self.until.items() if at > now}
        self.until[session.id] = session.opened + LIFETIME

    def has(self, session: Session) -> bool:
        return session.id in self.until
