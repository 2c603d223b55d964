"""How an instance finds and trusts its controller, and becomes known to it (implements `servers.ports.Enrolments`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.controller.certificates import Authority, write_private
from relaunch.controller.times import stamp
from relaunch.controller.tokens import digest
from relaunch.errors import NotAllowed, NotFound
from relaunch.records.schema import deployments, enrolments, instances, servers
from relaunch.servers.lifecycle import State

TOKEN_LIFE = timedelta(hours=2)  # an image bake with slow mirrors may come before

UserData = Callable[[str], str]  # a one-time token → the executable text of the first boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcomed:
    """What an enrolled agent is given; the fields of the API's answer."""

    agent: str
    secret: str
    bus_url: str
    ca: str
    certificate: str
    key: str
    ssh_public_key: str


class EnrolmentDesk:
    def __init__(
        self,
        database: Engine,
        clock: Clock,
        authority: Authority,
        *,
        user_data: UserData,
        bus_url: str,
        ssh_public_key: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authority = authority
        self._user_data = user_data
        self._bus_url = bus_url
        self._ssh_public_key = ssh_public_key

    def public_key(self) -> str:
        """The OpenSSH key for root on every instance."""
        return self._ssh_public_key

    def user_data(self, instance: str) -> str:
        """The executable text for LaunchRequest.user_data, with a fresh one-time token for this instance.

        Asked again, earlier tokens hold too: the cloud may have launched with one before a kill. One is used at most.
        """
        token = secrets.token_urlsafe(32)
        now = self._clock.now()
        with self._database.begin() as connection:
            connection.execute(
                insert(enrolments).values(
                    token_sha256=digest(token),
                    instance_id=instance,
                    created=stamp(now),
                    expires=stamp(now + TOKEN_LIFE),
                )
            )
        return self._user_data(token)

    def enrol(self, *, token: str, nonce: str, boot_id: str) -> Welcomed:
        """Exchange the token for a credential; the same nonce may ask again, when the answer was lost."""
        secret = secrets.token_urlsafe(32)
        now = stamp(self._clock.now())
        with self._database.begin() as connection:
            instance = self._instance_of(connection, token, nonce, now)
            names, addresses = _known_as(connection, instance)
            connection.execute(
                update(enrolments).where(enrolments.c.token_sha256 == digest(token)).values(used=now, nonce=nonce)
            )
            connection.execute(
                update(instances)
                .where(instances.c.id == instance)
                .values(agent_secret_sha256=digest(secret), boot_id=boot_id, last_seen=now)
            )
        issued = self._authority.issue(names[0], names=names, addresses=addresses)
        return Welcomed(
            agent=instance,
            secret=secret,
            bus_url=self._bus_url,
            ca=self._authority.pem,
            certificate=issued.certificate,
            key=issued.key,
            ssh_public_key=self._ssh_public_key,
        )

    def _instance_of(self, connection: Connection, token: str, nonce: str, now: str) -> str:
        row = connection.execute(
            select(enrolments, instances.c.state)
            .join(instances, instances.c.id == enrolments.c.instance_id)
            .where(enrolments.c.token_sha256 == digest(token))
        ).first()
        if row is None:
            raise NotAllowed("this enrolment token is unknown")
        other = connection.execute(
            select(1).where(
                enrolments.c.instance_id == row.instance_id,
                enrolments.c.used.is_not(None),
                enrolments.c.nonce != nonce,
            )
        ).first()
        if other is not None:
            raise NotAllowed("this enrolment token was used already", hint="launch a new instance")
        if row.state == State.TERMINATED:
            raise NotAllowed("this instance is terminated")
        if row.used is None and row.expires < now:
            raise NotAllowed("this enrolment token has expired", hint="launch a new instance")
        return str(row.instance_id)


def _known_as(connection: Connection, instance: str) -> tuple[list[str], list[str]]:
    """The names and addresses the instance's certificate holds for, its own name first."""
    row = connection.execute(
        select(
            instances.c.private_address,
            instances.c.public_address,
            servers.c.name,
            deployments.c.name.label("deployment"),
            deployments.c.spec,
        )
        .outerjoin(servers, servers.c.id == instances.c.server_id)
        .outerjoin(deployments, deployments.c.id == servers.c.deployment_id)
        .where(instances.c.id == instance)
    ).first()
    if row is None:
        raise NotFound(f"no instance {instance}")
    addresses = ["127.0.0.1", *(address for address in (row.private_address, row.public_address) if address)]
    if row.deployment is None:
        return [instance, "localhost"], addresses
    names = [f"{row.name}.{row.deployment}", row.name, "localhost", *_site_names(row.deployment, row.spec)]
    return list(dict.fromkeys(names)), addresses


def _site_names(deployment: str, spec: dict[str, Any]) -> list[str]:
    names = []
    for site in spec.get("sites") or ():
        name = site["name"]
        names += [name, f"*.{name}", site.get("canonical") or name, *(site.get("aliases") or ())]
        names += [f"db-primary.{name}", f"db-replica.{name}", f"db-primary.{deployment}.{name}"]
    return names


def ssh_key(file: Path) -> str:
    """The public half of the key pair in `file`, made at the first start."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        write_private(file, private)
    loaded = serialization.load_ssh_private_key(file.read_bytes(), password=None)
    public = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    line = f"{public.decode()} relaunch"
    file.with_name(file.name + ".pub").write_text(line + "\n")
    return line
