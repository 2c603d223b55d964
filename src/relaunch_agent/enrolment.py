"""Becoming known to the controller: the one-time token for a credential of our own."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from relaunch.errors import BadInput, NotAllowed, RelaunchError, Unavailable
from relaunch_agent import facts
from relaunch_agent.disk import read_json, remove, write_json, write_whole
from relaunch_agent.https import request, trusting
from relaunch_agent.places import Places

LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Config:
    """/etc/relaunch/agent.json, written by the bootstrap."""

    controller_url: str
    token: str
    ca_file: Path


@dataclass(frozen=True)
class Credential:
    agent: str
    secret: str
    bus_url: str

    def __repr__(self) -> str:
        return f"Credential({self.agent}, •••)"


def read_config(places: Places) -> Config:
    raw = read_json(places.config)
    try:
        assert isinstance(raw, dict)
        return Config(str(raw["controller_url"]).rstrip("/"), str(raw["token"]), Path(raw["ca_file"]))
    except (AssertionError, KeyError) as error:
        raise BadInput(f"{places.config} is missing or incomplete: {error}", hint="run the bootstrap again") from None


def read_credential(places: Places) -> Credential | None:
    raw = read_json(places.credential)
    return Credential(**raw) if isinstance(raw, dict) else None


async def enrolled(config: Config, places: Places) -> Credential:
    """The credential on disk, or a new one, asked for until the controller gives or refuses it."""
    known = read_credential(places)
    if known is not None:
        return known
    if not places.nonce.exists():
        # On disk before it is used: an answer that got lost can only be asked for again with the same nonce.
        write_whole(places.nonce, secrets.token_hex(16), mode=0o600, durable=True)
    question: dict[str, object] = {
        "token": config.token,
        "nonce": places.nonce.read_text(),
        "boot_id": facts.boot_id(),
        "facts": facts.enrolment_facts(),
    }
    pause = 0.2
    while True:
        try:
            return _kept(await _asked(config, question), places)
        except Unavailable as error:
            print(f"enrolment: {error}; again in about {pause:.1f} s", file=sys.stderr, flush=True)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


async def _asked(config: Config, question: dict[str, object]) -> dict[str, str]:
    answer = await request(
        "POST",
        f"{config.controller_url}/api/v1/agent/enrol",
        tls=trusting(config.ca_file),
        body=json.dumps(question).encode(),
    )
    if answer.status in (400, 401, 403, 404, 409, 410, 422):
        raise NotAllowed(
            f"the controller refused to enrol us ({answer.status}): {answer.body[:500].decode('utf-8', 'replace')}"
        )
    if answer.status not in (200, 201):
        raise Unavailable(f"the controller answered {answer.status}")
    given = json.loads(answer.body)
    missing = {"agent", "secret", "bus_url", "ca", "certificate", "key"} - set(given)
    if missing:
        raise RelaunchError(f"the controller's answer to the enrolment lacks {', '.join(sorted(missing))}")
    return dict(given)


def _kept(given: dict[str, str], places: Places) -> Credential:
    places.tls.mkdir(parents=True, exist_ok=True)
    write_whole(places.tls / "ca.crt", given["ca"])
    write_whole(places.tls / "server.crt", given["certificate"])
    write_whole(places.tls / "server.key", given["key"], mode=0o600)
    if given.get("ssh_public_key"):
        _allow_login(places.authorized_keys, given["ssh_public_key"].strip())
    credential = Credential(given["agent"], given["secret"], given["bus_url"])
    write_json(places.credential, vars(credential), durable=True)
    remove(places.nonce)
    return credential


def _allow_login(file: Path, key: str) -> None:
    present = file.read_text() if file.exists() else ""
    if key not in present:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(file, f"{present.rstrip()}\n{key}\n".lstrip(), mode=0o600)
