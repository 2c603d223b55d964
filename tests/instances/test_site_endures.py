"""A redundant site on real servers, and what befalls it: each test leaves it whole for the next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from site_stand import Site, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root and real instances in the local cloud"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    stand = Site(Path(os.environ.get("RELAUNCH_TEST_SITE", "/var/tmp/relaunch-test-site")))
    try:
        stand.bring_up()
        yield stand
    finally:
        stand.put_away()


def test_a_replica_is_replaced_while_everybody_reads_and_writes(site: Site) -> None:
    before = site.server("shop/db2")["instance"]
    with site.visitors([site.address("shop/front1"), site.address("shop/front2")]):
        site.relaunch("server", "relaunch", "db2", "--yes")
        until(lambda: site.server("shop/db2")["tags"].get("database") == "replica", "db2 says that it is a replica")

    assert site.server("shop/db2")["instance"] != before
    status = site.inside("shop/db2", "mariadb -e 'show slave status\\G'")
    assert "Slave_IO_Running: Yes" in status and "Slave_SQL_Running: Yes" in status
    counted = "mariadb -Ne 'select clicks from rack.counter'"
    until(
        lambda: site.inside("shop/db1", counted) == site.inside("shop/db2", counted),
        "db2 holds every click that db1 holds",
    )
    assert int(site.inside("shop/db2", counted)) > 20


def test_a_front_end_without_power_leaves_the_names_within_seconds_and_comes_back_new(site: Site) -> None:
    stays, goes = site.address("shop/front1"), site.address("shop/front2")
    assert site.resolved() == {stays, goes}

    # A write that was on its way to the dead one fails: nobody may send it a second time.
    with site.visitors([stays], who=["GET"]):
        site.relaunch("server", "power-off", "front2")
        until(lambda: site.resolved() == {stays}, "the name leads to front1 only", seconds=5)
        assert site.server("shop/front2")["lost"]
        site.relaunch("server", "relaunch", "front2", "--yes")
        comes = site.address("shop/front2")
        until(lambda: site.resolved() == {stays, comes}, "the name leads to the new front2, too", seconds=5)

    assert comes != goes
    assert site.serves(comes)


def test_a_controller_killed_again_and_again_finishes_what_it_was_at(site: Site) -> None:
    def is_last_script(step: str) -> bool:
        numbers = step.removeprefix("boot script ").partition(":")[0].split("/")
        return step.startswith("boot script ") and numbers[0] == numbers[-1]

    def kill_once(moment: str, reached: Callable[[str], bool]) -> None:
        seen: list[str] = []

        def has_come() -> bool:
            servers = site.servers("again")
            seen[:] = [f"{each['name']}: {each['state']}, {each['current_step']}" for each in servers]
            return any(reached(each["current_step"]) for each in servers)

        try:
            until(has_come, moment, seconds=60)  # Puma's stop hangs now and then, until systemd ends it after 30 s
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from None
        site.kill_controller()
        site.start_controller()
        site.wait_whole("again")

    with site.visitors([site.address("shop/front1")]):
        site.apply("again", wait=False)
        kill_once("instances are launched", lambda step: step.startswith(("launch in the cloud", "wait for its agent")))
        site.relaunch("server", "relaunch", "again/db2", "--yes", "--no-wait")
        kill_once("boot scripts run", lambda step: step.startswith("boot script"))
        site.relaunch("server", "relaunch", "again/front1", "--yes", "--no-wait")
        kill_once("the last boot script runs, just before it is operational", is_last_script)

    present = site.servers("shop") + site.servers("again")
    assert len(present) == 8
    assert site.cables() == {server["cloud_id"] for server in present}  # no more, no less
    for server in site.servers("again"):
        boots = [run for run in site.client.get("/runs", instance=server["instance"])["runs"] if run["phase"] == "boot"]
        assert [run["state"] for run in boots] == ["succeeded"]
        if server["template"] == "front-end":
            assert site.visit(server["private_address"], host="www.again.test") == 200
    tasks = site.client.get("/tasks", subject="deployment:again")["tasks"]
    assert [task["state"] for task in tasks] == ["succeeded"]
    site.relaunch("deployment", "destroy", "again", "--yes")
    assert site.cables() == {server["cloud_id"] for server in site.servers("shop")}


def test_the_site_is_back_after_its_host_lost_power(site: Site) -> None:
    fronts = [site.address("shop/front1"), site.address("shop/front2")]
    clicks = "mariadb -Ne 'select clicks from rack.counter'"
    assert site.visit(fronts[0], "POST") == 303
    counted = int(site.inside("shop/db1", clicks))

    site.lose_host()
    assert not site.serves(fronts[0])
    site.start_controller()

    until(lambda: all(map(site.serves, fronts)), "both front ends serve", seconds=60)
    site.wait_whole("shop")
    until(lambda: all(site.visit(front, "POST") == 303 for front in fronts), "the primary takes writes", seconds=30)
    assert int(site.inside("shop/db1", clicks)) > counted
    until(lambda: site.inside("shop/db1", clicks) == site.inside("shop/db2", clicks), "the replica follows again")


def test_nothing_is_left_of_a_site_whose_controller_was_killed_in_a_launch(site: Site) -> None:
    site.apply("again", wait=False)
    until(lambda: len(site.cables()) > 4, "an instance more")
    site.kill_controller()
    assert site.traces() != []

    site.put_away()

    assert site.traces() == []
    assert not site.state.exists()
