from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from site_world import FRONT_END, REDUNDANT, changed

from relaunch.errors import NotFound
from relaunch.servers.deployments import DatabaseSpec, SiteSpec
from relaunch.servers.lifecycle import ENROLLED, State
from relaunch.sites.view import view_for

HERE = Path(__file__).parent


def backend(view, site="site-redmine.test"):
    return next(
        [(server["name"], server["address"], server["weight"]) for server in backend["servers"]]
        for backend in view["proxy"]["backends"]
        if backend["name"] == site
    )


def listener(view, name):
    return next(
        [server["name"] for server in one["servers"]] for one in view["proxy"]["listeners"] if one["name"] == name
    )


@pytest.mark.parametrize("name", ["front1", "db2"])
def test_the_view_is_this(name):
    """Refresh: write json.dumps(view_for(REDUNDANT, name), indent=1) into the file."""
    assert view_for(REDUNDANT, name) == json.loads((HERE / f"view_{name}.json").read_text())


def test_a_view_survives_json():
    view = view_for(REDUNDANT, "front2")

    assert json.loads(json.dumps(view)) == view


def test_an_unknown_server_has_no_view():
    with pytest.raises(NotFound, match="deployment shop has no server front3"):
        view_for(REDUNDANT, "front3")


def test_each_front_end_prefers_the_others_app():
    assert backend(view_for(REDUNDANT, "front1")) == [("front1", "127.0.0.1", 50), ("front2", "198.18.0.12", 100)]
    assert backend(view_for(REDUNDANT, "front2")) == [("front1", "198.18.0.11", 100), ("front2", "127.0.0.1", 50)]


@pytest.mark.parametrize(
    "values",
    [
        {"state": State.BOOTING},
        {"state": State.STRANDED},
        {"state": State.SET_ASIDE},
        {"state": State.DECOMMISSIONING},
        {"state": State.TERMINATED},
        {"state": State.INACTIVE, "instance": ""},
        {"tags": {}},
        {"tags": {"app": "no"}},
        {"tags": {"app": "0"}},
        {"tags": {"app": "65536"}},
        {"private_address": ""},
    ],
    ids=str,
)
def test_an_app_that_is_not_there_gets_no_requests_and_ones_own_then_gets_all(values):
    assert backend(view_for(changed(REDUNDANT, "front2", **values), "front1")) == [("front1", "127.0.0.1", 100)]


def test_a_front_end_that_still_boots_uses_the_others():
    booting = changed(REDUNDANT, "front1", state=State.BOOTING)

    assert backend(view_for(booting, "front1")) == [("front2", "198.18.0.12", 100)]


def test_an_app_server_behind_the_front_ends_is_used_by_both():
    extra = replace(
        REDUNDANT.servers[1], name="app1", template="app-server", offers=FRONT_END[1:], private_address="198.18.0.15"
    )
    world = replace(REDUNDANT, servers=(*REDUNDANT.servers, extra))

    assert backend(view_for(world, "front1"))[-1] == ("app1", "198.18.0.15", 100)
    assert view_for(world, "app1")["proxy"]["backends"] == []
    assert listener(view_for(world, "app1"), "db-primary") == ["db1"]
    assert view_for(world, "app1")["hosts"] == {
        "db-primary.redmine.test": "127.0.1.1",
        "db-replica.redmine.test": "127.0.1.2",
    }


def test_an_instance_that_is_gone_is_no_peer():
    gone = changed(REDUNDANT, "db2", instance="", state=State.INACTIVE, private_address="")

    assert [peer["name"] for peer in view_for(gone, "front1")["peers"]] == ["front1", "front2", "db1"]


@pytest.mark.parametrize("state", ENROLLED)
def test_the_primary_is_told_from_its_enrolment_on(state):
    view = view_for(changed(REDUNDANT, "db1", state=state, tags={}), "db2")

    assert view["database"]["primary"] == {"name": "db1", "address": "198.18.0.13", "state": str(state)}


@pytest.mark.parametrize("values", [{"state": State.PENDING}, {"state": State.SET_ASIDE}], ids=str)
def test_a_primary_that_cannot_be_used_is_not_told(values):
    view = view_for(changed(REDUNDANT, "db1", **values), "front1")

    assert view["database"]["primary"] is None
    assert listener(view, "db-primary") == []


def test_the_stored_primary_counts_not_the_files():
    world = replace(REDUNDANT, database=replace(REDUNDANT.database, primary="db2", epoch=2))
    world = changed(changed(world, "db1", tags={"database": "replica"}), "db2", tags={"database": "primary"})

    view = view_for(world, "front1")

    assert (view["database"]["primary"]["name"], view["database"]["epoch"]) == ("db2", 2)
    assert [replica["name"] for replica in view["database"]["replicas"]] == ["db1"]
    assert (listener(view, "db-primary"), listener(view, "db-replica")) == (["db2"], ["db1"])


def test_a_replica_whose_boot_scripts_gave_up_leads_all_the_same_once_it_is_the_stored_primary():
    world = replace(REDUNDANT, database=replace(REDUNDANT.database, primary="db2", epoch=2))
    world = changed(changed(world, "db1", state=State.SET_ASIDE), "db2", state=State.STRANDED)

    for name in ("front1", "db1"):
        view = view_for(world, name)
        assert view["database"]["primary"] == {"name": "db2", "address": "198.18.0.14", "state": "stranded"}
        assert [each["name"] for each in view["database"]["members"]] == ["db2"]
    front = view_for(world, "front1")
    assert (listener(front, "db-primary"), listener(front, "db-replica")) == (["db2"], ["db2"])


def test_before_a_primary_is_stored_the_files_is_told():
    world = replace(REDUNDANT, database=None)

    view = view_for(world, "db1")

    assert view["database"]["primary"]["name"] == "db1"
    assert (view["database"]["group"], view["database"]["epoch"], view["database"]["initialised"]) == ("shop", 0, False)


@pytest.mark.parametrize("values", [{"state": State.BOOTING}, {"state": State.STRANDED}, {"tags": {}}], ids=str)
def test_reads_go_to_the_primary_while_no_replica_answers(values):
    assert listener(view_for(changed(REDUNDANT, "db2", **values), "front1"), "db-replica") == ["db1"]


def test_a_deployment_without_database_says_null():
    spec = replace(REDUNDANT.deployment, database=None)

    view = view_for(replace(REDUNDANT, deployment=spec, database=None), "front1")

    assert (view["database"], view["hosts"], view["proxy"]["listeners"]) == (None, {}, [])


def test_two_sites_on_one_group_have_names_and_addresses_of_their_own():
    blog = SiteSpec(name="blog.test", canonical="blog.test", database="blog", check_path="/up")
    plain = SiteSpec(name="a.test", canonical="www.a.test", aliases=("a.test",))
    spec = replace(REDUNDANT.deployment, sites=(*REDUNDANT.deployment.sites, blog, plain))

    view = view_for(replace(REDUNDANT, deployment=spec, maintenance={"blog.test": ("10.0.0.7",)}), "front1")

    assert view["hosts"] == {
        "db-primary.blog.test": "127.0.1.1",
        "db-replica.blog.test": "127.0.1.2",
        "db-primary.redmine.test": "127.0.2.1",
        "db-replica.redmine.test": "127.0.2.2",
    }
    assert [(one["name"], one["bind"]) for one in view["proxy"]["listeners"]] == [
        ("db-primary", "127.0.1.1:3306"),
        ("db-replica", "127.0.1.2:3306"),
        ("db-primary-2", "127.0.2.1:3306"),
        ("db-replica-2", "127.0.2.2:3306"),
    ]
    assert [(site["name"], site["maintenance"]) for site in view["sites"]] == [
        ("a.test", False),
        ("blog.test", True),
        ("redmine.test", False),
    ]
    assert [(one["name"], one["check_path"]) for one in view["proxy"]["backends"]][1] == ("site-blog.test", "/up")


def test_everything_on_one_server_finds_itself():
    web = replace(
        REDUNDANT.servers[0], name="web", template="all-in-one", tags={"app": "8000", "database": "primary"},
        offers=(*FRONT_END, *REDUNDANT.servers[2].offers),
    )  # fmt: skip
    spec = replace(REDUNDANT.deployment, database=DatabaseSpec(primary="web"))
    world = replace(REDUNDANT, deployment=spec, servers=(web,), database=replace(REDUNDANT.database, primary="web"))

    view = view_for(world, "web")

    assert backend(view) == [("web", "127.0.0.1", 100)]
    assert (listener(view, "db-primary"), listener(view, "db-replica")) == (["web"], ["web"])
