"""A month before a certificate ends somebody is told, and of what to do; not of a database server's: its group does,
unless that ends before its time, with the authority. Of the authority's own end a year before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from relaunch.clock import SetClock
from relaunch.controller.certificates import AUTHORITY_LIFE, Authority
from relaunch.controller.ending_certificates import ending, watch_certificates
from relaunch.databases.alarm import Alarm
from relaunch.records.engine import open_database
from relaunch.servers.deployments import read_deployment
from relaunch.servers.lifecycle import CERTIFICATE_LIFE
from relaunch.servers.store import Store

FILE = """
deployment: shop
servers:
  db1: {template: mysql, zone: a}
  front1: {template: web, zone: a}
  front2: {template: web, zone: b}
database: {primary: db1}
"""


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def own(tmp_path: Path, clock: SetClock) -> Path:
    started(tmp_path, clock)
    return tmp_path / "server.crt"


def started(folder: Path, clock: SetClock) -> Authority:
    authority = Authority.open(folder, clock)
    authority.keep_issued(folder, "server", names=("localhost",), addresses=())
    return authority


@pytest.fixture
def authority(own: Path, clock: SetClock) -> Authority:
    return Authority.open(own.parent, clock)


@pytest.fixture
def database(tmp_path: Path, clock: SetClock) -> Iterator[Engine]:
    """All launched now, front2 set aside since."""
    engine = open_database(f"sqlite:///{tmp_path}/controller.db", program="test")
    store = Store(engine, clock)
    servers = {"db1": "s1", "front1": "s2", "front2": "s3"}
    store.put_deployment(read_deployment(FILE), new_id="d", new_server_ids=servers)
    for name, server in servers.items():
        store.add_instance(
            f"i-{name}", server_id=server, purpose="serve", zone="a", image_id="x", run_list={}, sealed_inputs=""
        )
        store.change_instance(f"i-{name}", state="set_aside" if name == "front2" else "operational")
    yield engine
    engine.dispose()


def test_the_controllers_and_a_servers_certificate_are_told_a_month_before(
    own: Path, authority: Authority, database: Engine, clock: SetClock
) -> None:
    clock.move(CERTIFICATE_LIFE - timedelta(days=31))
    assert ending(own, authority, database, clock) == {}

    clock.move(timedelta(days=2))
    told = ending(own, authority, database, clock)

    assert sorted(told) == ["controller", "i-front1"]
    assert "ends on 2028-04-05" in told["controller"]
    assert "relaunch controller stop, then relaunch controller start" in told["controller"]
    assert "shop/front1 ends on 2028-04-05" in told["i-front1"]
    assert "relaunch server relaunch shop/front1" in told["i-front1"]


def test_after_the_next_start_and_a_relaunch_there_is_nothing_to_tell(
    own: Path, database: Engine, clock: SetClock
) -> None:
    clock.move(CERTIFICATE_LIFE - timedelta(days=29))
    authority = started(own.parent, clock)
    Store(database, clock).change_instance("i-front1", launched=clock.now().isoformat())

    assert ending(own, authority, database, clock) == {}


def test_the_authoritys_own_end_is_told_a_year_before_and_until_the_next_start(
    own: Path, authority: Authority, database: Engine, clock: SetClock
) -> None:
    clock.move(AUTHORITY_LIFE - timedelta(days=366))
    assert "authority" not in ending(own, authority, database, clock)

    clock.move(timedelta(days=2))
    told = ending(own, authority, database, clock)["authority"]

    assert "the internal certificate authority ends on 2035-12-30" in told
    assert "relaunch controller stop, then relaunch controller start; then relaunch every server" in told
    assert "authority" not in ending(own, started(own.parent, clock), database, clock)


def test_servers_that_know_only_the_authority_of_before_are_told_a_month_before_its_end(
    own: Path, database: Engine, clock: SetClock
) -> None:
    clock.move(AUTHORITY_LIFE - timedelta(days=300))
    store = Store(database, clock)
    for instance in ("i-db1", "i-front1"):
        store.change_instance(instance, launched=clock.now().isoformat())
    clock.move(timedelta(seconds=1))
    authority = started(own.parent, clock)
    store.change_instance("i-front2", state="operational", launched=clock.now().isoformat())
    assert ending(own, authority, database, clock) == {}

    clock.move(timedelta(days=271))
    told = ending(own, authority, database, clock)

    assert sorted(told) == ["i-db1", "i-front1"]
    assert "shop/db1 ends on 2035-12-30: nobody could replicate from it" in told["i-db1"]
    assert "shop/front1 ends on 2035-12-30" in told["i-front1"]
    store.set_initialised("s1")
    assert "relaunch db switchover shop, then" in ending(own, authority, database, clock)["i-db1"]


async def test_it_reaches_a_person(own: Path, authority: Authority, database: Engine, clock: SetClock) -> None:
    said: asyncio.Queue[tuple[str, str, tuple[str, ...]]] = asyncio.Queue()

    async def tell(*what: object) -> None:
        said.put_nowait(what)  # type: ignore[arg-type]

    alarm = Alarm(tell)
    clock.move(CERTIFICATE_LIFE - timedelta(days=29))
    tasks = [
        asyncio.create_task(alarm.tell_for_ever()),
        asyncio.create_task(watch_certificates(own, authority, database, clock, alarm)),
    ]
    subject, state, reasons = await asyncio.wait_for(said.get(), 5)

    assert (subject, state, len(reasons)) == ("certificates", "alert", 2)
    for task in tasks:
        task.cancel()
