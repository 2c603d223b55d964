from __future__ import annotations

from dataclasses import replace

import pytest

from relaunch.servers.deployments import DatabaseSpec, DeploymentSpec, ServerSpec, SiteSpec
from relaunch.servers.lifecycle import State
from relaunch.servers.plan import Action, ActionKind, Plan, ServerNow, destruction, plan

SPEC = DeploymentSpec(
    name="shop",
    servers=(
        ServerSpec(name="front1", template="front-end"),
        ServerSpec(name="db1", template="mysql"),
        ServerSpec(name="db2", template="mysql", zone="b"),
    ),
    database=DatabaseSpec(primary="db1", replicas=("db2",)),
    sites=(SiteSpec(name="shop.test", canonical="www.shop.test"),),
)
UP = ServerNow(state=State.OPERATIONAL, has_instance=True, template_hash="h1")
ALL_UP = {"front1": UP, "db1": UP, "db2": UP}


def told(found: Plan) -> list[tuple[str, str, str, bool]]:
    return [(str(action.kind), action.subject, action.why, action.destroys) for action in found.actions]


def without(name: str) -> DeploymentSpec:
    return replace(SPEC, servers=tuple(server for server in SPEC.servers if server.name != name))


def with_server(name: str, **changes: object) -> DeploymentSpec:
    changed = (replace(server, **changes) if server.name == name else server for server in SPEC.servers)  # type: ignore[arg-type]
    return replace(SPEC, servers=tuple(changed))


def test_a_new_deployment_launches_its_database_first():
    found = plan(None, SPEC, {})

    assert told(found) == [
        ("launch", "server:shop/db1", "it is new", False),
        ("launch", "server:shop/db2", "it is new", False),
        ("launch", "server:shop/front1", "it is new", False),
        ("add_database", "database:shop", "primary db1", False),
        ("add_site", "site:shop.test", "it is new", False),
    ]
    assert (found.changes, found.destroys, found.problems) == (True, False, ())


def test_applying_the_same_again_changes_nothing():
    found = plan(SPEC, SPEC, ALL_UP, {"mysql": "h1", "front-end": "h1"})

    assert (found, found.changes) == (Plan(), False)


def test_a_server_without_instance_is_launched_again():
    gone = ServerNow(state=State.TERMINATED, has_instance=False)

    assert told(plan(SPEC, SPEC, {**ALL_UP, "front1": gone})) == [
        ("launch", "server:shop/front1", "it has no instance", False)
    ]


@pytest.mark.parametrize("state", [State.PENDING, State.BOOTING, State.DECOMMISSIONING, State.OPERATIONAL])
def test_a_server_on_its_way_is_left_alone(state):
    assert plan(SPEC, SPEC, {**ALL_UP, "front1": replace(UP, state=state)}) == Plan()


@pytest.mark.parametrize(("state", "words"), [(State.STRANDED, "stranded"), (State.SET_ASIDE, "set aside")])
def test_a_stranded_server_is_told_and_left_to_a_person(state, words):
    found = plan(SPEC, SPEC, {**ALL_UP, "front1": replace(UP, state=state)})

    assert told(found) == [
        ("retry_needed", "server:shop/front1", f"it is {words}: retry, force operational or relaunch it", False)
    ]
    assert not found.changes


@pytest.mark.parametrize(
    ("wanted", "hashes", "kind", "why"),
    [
        (with_server("front1", template="base"), {}, "relaunch_needed", "template front-end → base"),
        (with_server("front1", zone="c"), {}, "change_zone",
         "zone a → c: its instance stays where it is until it is relaunched"),
        (with_server("front1", memory_bytes=1), {}, "relaunch_needed", "its memory changed"),
        (with_server("front1", volume_bytes=1), {}, "relaunch_needed", "its volume changed"),
        (with_server("front1", inputs={"A": "text:1"}), {}, "relaunch_needed", "inputs changed: A"),
        (SPEC, {"front-end": "h2"}, "relaunch_needed", "template front-end has changed since its launch"),
    ],
)  # fmt: skip
def test_a_changed_definition_is_told_and_not_done_unasked(wanted, hashes, kind, why):
    found = plan(SPEC, wanted, ALL_UP, hashes)

    assert told(found) == [(kind, "server:shop/front1", why, False)]
    assert not found.changes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("front1", "it is no longer in the file"),
        ("db2", "it is no longer in the file; its copy of the database goes with it"),
        ("db1", "it is no longer in the file; it is the database primary, its data goes with it"),
    ],
)
def test_a_removed_server_is_destroyed_and_says_what_goes_with_it(name, why):
    found = plan(SPEC, without(name), ALL_UP)

    assert told(found) == [("destroy", f"server:shop/{name}", why, True)]


def test_a_removed_server_that_has_nothing_destroys_nothing():
    found = plan(SPEC, without("front1"), {"db1": UP, "db2": UP})

    assert told(found) == [("destroy", "server:shop/front1", "it is no longer in the file", False)]
    assert (found.destroys, found.changes) == (False, True)


def test_a_server_left_over_without_definition_is_destroyed():
    assert told(plan(SPEC, SPEC, {**ALL_UP, "old": UP})) == [
        ("destroy", "server:shop/old", "it is no longer in the file", True)
    ]


def test_removing_the_database_destroys_and_changing_it_does_not():
    removed = plan(SPEC, replace(SPEC, database=None), ALL_UP)
    changed = plan(SPEC, replace(SPEC, database=DatabaseSpec(primary="db1", durability="strict")), ALL_UP)

    assert told(removed) == [("remove_database", "database:shop", "it is no longer in the file", True)]
    assert told(changed) == [
        ("change_database", "database:shop", "db2 is no replica any more; durability available → strict", False)
    ]


def test_sites_come_change_and_go():
    site = SPEC.sites[0]
    wanted = replace(SPEC, sites=(replace(site, check_path="/up"), SiteSpec(name="b.test", canonical="www.b.test")))

    assert told(plan(SPEC, wanted, ALL_UP)) == [
        ("change_site", "site:shop.test", "changed: check_path", False),
        ("add_site", "site:b.test", "it is new", False),
    ]
    assert told(plan(SPEC, replace(SPEC, sites=()), ALL_UP)) == [
        ("remove_site", "site:shop.test", "it is no longer in the file", False)
    ]


def test_what_a_file_cannot_change_is_a_problem():
    wanted = replace(SPEC, cloud="ec2", database=DatabaseSpec(primary="db2", replicas=("db1",)))

    problems = plan(SPEC, wanted, ALL_UP).problems

    assert problems == (
        "deployment shop runs in cloud local; it cannot be moved to ec2:"
        " destroy it first or give the new one another name",
        "the primary of database shop is db1; editing the file does not make db2 the primary: leave `primary: db1`",
    )


def test_destroying_all_says_what_goes():
    found = destruction(SPEC, {"front1": UP, "db1": UP})

    assert told(found) == [
        ("remove_site", "site:shop.test", "the deployment is destroyed", False),
        ("remove_database", "database:shop", "the deployment is destroyed", True),
        ("destroy", "server:shop/front1", "the deployment is destroyed", True),
        ("destroy", "server:shop/db1",
         "the deployment is destroyed; it is the database primary, its data goes with it", True),
        ("destroy", "server:shop/db2", "the deployment is destroyed; its copy of the database goes with it", True),
    ]  # fmt: skip


def test_an_action_knows_whether_apply_does_it():
    done = {kind for kind in ActionKind if Action(kind=kind, subject="x", why="y").done_by_apply}

    assert set(ActionKind) - done == {ActionKind.RETRY_NEEDED, ActionKind.RELAUNCH_NEEDED, ActionKind.CHANGE_ZONE}
