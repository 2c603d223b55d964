from __future__ import annotations

from dataclasses import replace

import pytest
from site_world import REDUNDANT, changed

from relaunch.servers.deployments import SiteSpec
from relaunch.servers.lifecycle import State
from relaunch.sites.names import dns_records, site_name_problems, zone_of


def answers(observed, zones=("test",)):
    return {
        (wanted.name, wanted.type): wanted.record and (wanted.record.values, wanted.record.ttl_seconds)
        for wanted in dns_records(observed, zones)
    }


FRONT_ENDS = ("198.18.0.11", "198.18.0.12")


def test_the_names_of_a_redundant_site_are_these():
    assert answers(REDUNDANT) == {
        ("db-primary.redmine.test", "CNAME"): (("db-primary.shop.test",), 60),
        ("db-primary.shop.test", "A"): (("198.18.0.13",), 5),
        ("db-replica.redmine.test", "CNAME"): (("db-replica.shop.test",), 60),
        ("db-replica.shop.test", "A"): (("198.18.0.14",), 5),
        ("redmine.test", "A"): (FRONT_ENDS, 30),
        ("www.redmine.test", "CNAME"): (("www.shop.test",), 60),
        ("www.shop.test", "A"): (FRONT_ENDS, 30),
    }
    assert all(wanted.record and (wanted.record.name, wanted.record.type) == (wanted.name, wanted.type)
               for wanted in dns_records(REDUNDANT, ["test"]))  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [{"state": State.BOOTING}, {"state": State.STRANDED}, {"state": State.SET_ASIDE}, {"lost": True}],
    ids=str,
)
def test_a_front_end_that_does_not_serve_is_in_no_answer(values):
    found = answers(changed(REDUNDANT, "front1", **values))

    assert found["www.shop.test", "A"] == found["redmine.test", "A"] == (("198.18.0.12",), 30)


def test_front_ends_that_are_all_thought_lost_stay_it_may_be_us_who_are_cut_off():
    world = changed(changed(REDUNDANT, "front1", lost=True), "front2", lost=True)

    assert answers(world)["www.shop.test", "A"] == (FRONT_ENDS, 30)


def test_when_nobody_serves_the_answer_is_left_as_it_is():
    nobody = REDUNDANT
    for server in REDUNDANT.servers:
        nobody = changed(nobody, server.name, state=State.SET_ASIDE)

    found = answers(nobody)

    assert [name for (name, kind), answer in found.items() if answer is None] == [
        "db-primary.shop.test",
        "db-replica.shop.test",
        "redmine.test",
        "www.shop.test",
    ]


@pytest.mark.parametrize("state", [State.BOOTING, State.STRANDED])
def test_the_group_says_who_leads_and_not_how_far_its_boot_scripts_came(state):
    world = changed(REDUNDANT, "db1", state=state)

    assert answers(world)["db-primary.shop.test", "A"] == (("198.18.0.13",), 5)
    assert answers(world)["db-replica.shop.test", "A"] == (("198.18.0.14",), 5)
    alone = answers(changed(world, "db2", state=State.SET_ASIDE))
    assert alone["db-replica.shop.test", "A"] == (("198.18.0.13",), 5)


@pytest.mark.parametrize("state", [State.PENDING, State.SET_ASIDE, State.DECOMMISSIONING])
def test_a_primary_that_is_not_there_leaves_the_name_as_it_is(state):
    assert answers(changed(REDUNDANT, "db1", state=state))["db-primary.shop.test", "A"] is None


def test_the_replica_name_leads_to_the_primary_while_there_is_no_replica():
    found = answers(changed(REDUNDANT, "db2", state=State.PENDING))

    assert found["db-replica.shop.test", "A"] == (("198.18.0.13",), 5)


def test_public_addresses_are_published_for_front_ends_and_private_ones_for_databases():
    world = changed(changed(REDUNDANT, "front1", public_address="203.0.113.9"), "db1", public_address="203.0.113.8")

    found = answers(world)

    assert found["www.shop.test", "A"] == (("198.18.0.12", "203.0.113.9"), 30)
    assert found["db-primary.shop.test", "A"] == (("198.18.0.13",), 5)


def test_a_site_called_like_its_deployment_gets_no_name_that_leads_to_itself():
    site = replace(REDUNDANT.deployment.sites[0], name="shop.test", canonical="www.shop.test", aliases=("shop.test",))

    found = answers(replace(REDUNDANT, deployment=replace(REDUNDANT.deployment, sites=(site,))))

    assert found == {
        ("db-primary.shop.test", "A"): (("198.18.0.13",), 5),
        ("db-replica.shop.test", "A"): (("198.18.0.14",), 5),
        ("shop.test", "A"): (FRONT_ENDS, 30),
        ("www.shop.test", "A"): (FRONT_ENDS, 30),
    }


def test_names_outside_of_our_zones_are_left_out_and_told():
    site = SiteSpec(name="shop.example.com", canonical="shop.test", aliases=("shop.example.com", "www.other.test"))
    spec = replace(REDUNDANT.deployment, sites=(site,))

    found = answers(replace(REDUNDANT, deployment=spec))

    assert not any("example.com" in name for name, _ in found)
    assert found["www.other.test", "CNAME"] == (("www.shop.test",), 60)
    assert site_name_problems(spec, ["test"]) == (
        "site shop.example.com: shop.example.com lies in no zone served here (test); its DNS must be set by hand",
    )
    assert site_name_problems(spec, ["test", "com"]) == ()


def test_a_zones_own_name_is_no_site():
    spec = replace(
        REDUNDANT.deployment, sites=(SiteSpec(name="my.test", canonical="www.my.test", aliases=("my.test",)),)
    )

    assert site_name_problems(spec, ["test", "my.test"]) == (
        "site my.test: my.test is the zone itself; a site needs a name below it",
    )


def test_the_longest_zone_holds_a_name():
    assert zone_of("a.b.test", ["test", "b.test"]) == "b.test"
    assert zone_of("b.test", ["test", "b.test"]) == "b.test"
    assert zone_of("ab.testing", ["test"]) is None
    assert zone_of("btest", ["test"]) is None


def test_without_a_zone_there_are_no_names():
    assert dns_records(REDUNDANT, []) == ()
