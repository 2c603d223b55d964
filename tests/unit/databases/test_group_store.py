"""What failover remembers survives: every field of a group, changed only from what was read."""

from dataclasses import fields, replace

import pytest

from relaunch.clock import SystemClock
from relaunch.databases.group import PRESETS, Change, Group, Mode, Step
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict
from relaunch.records.engine import open_database
from relaunch.servers.deployments import FAILOVER_PRESETS, read_deployment
from relaunch.servers.lifecycle import State
from relaunch.servers.store import Store
from relaunch.sites.store import SiteStore
from relaunch.sites.view import view_for

FILE = """
deployment: shop
servers: {db1: {template: mysql, zone: a}, db2: {template: mysql, zone: b}}
database: {primary: db1, replicas: [db2], durability: strict}
"""


@pytest.fixture
def database(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path}/controller.db", program="test")
    store = Store(engine, SystemClock())
    store.put_deployment(read_deployment(FILE), new_id="d", new_server_ids={"db1": "s1", "db2": "s2"})
    for server, instance in (("s1", "i1"), ("s2", "i2")):
        store.add_instance(
            instance, server_id=server, purpose="serve", zone="a", image_id="x", run_list={}, sealed_inputs=""
        )
        store.change_instance(instance, state="operational", private_address=f"198.18.0.{instance[1]}")
    yield engine
    engine.dispose()


def full(group: Group) -> Group:
    """No field as it is by default."""
    change = Change(
        kind="failover",
        step=Step.REVOKE,
        old="i1",
        candidate=None,
        rule="silence",
        forced="i2",
        began=1.5,
        step_began=2.5,
    )
    return replace(
        group, epoch=7, primary="i2", mode=Mode.SYNC, reason="in step", since=12.5, promoted=11.5, required=True,
        sync_set=frozenset({"i1", "i2"}), starts={"i2": "17"}, forgot=frozenset({"i1"}), leaving=frozenset({"i2"}),
        left=frozenset({"i1"}), fenced=frozenset({"i1"}), change=change, paused="ann: disks", loss_allowed="bob: old",
        loss_allowed_at=3.5, loss_allowed_seconds=60.0, failovers=(1.0, 2.0),
    )  # fmt: skip


def test_every_field_comes_back_as_it_was_stored(database):
    store = GroupStore(database)
    Store(database, SystemClock()).set_initialised("s1")
    stored = store.group("shop")
    wanted = full(stored.group)
    untouched = {each.name for each in fields(Group)} - {"name", "durability", "initialised"}
    assert all(getattr(wanted, name) != getattr(stored.group, name) for name in untouched), "the test forgets a field"
    store.put(stored, wanted)
    assert store.group("shop").group == wanted


def test_what_is_set_aside_can_be_found(database):
    Store(database, SystemClock()).change_instance("i2", state="set_aside", aside_until="2026-11-23T00:00:00")

    (aside,) = GroupStore(database).group("shop").asides

    assert (aside.id, aside.server, aside.address) == ("i2", "shop/db2", "198.18.0.2")


def test_the_new_primary_is_also_the_servers(database):
    store = GroupStore(database)
    Store(database, SystemClock()).set_initialised("s1")
    stored = store.group("shop")
    store.put(stored, replace(stored.group, primary="i2"))
    assert Store(database, SystemClock()).group("d")["primary_server_id"] == "s2"


def test_who_was_slower_is_refused(database):
    store = GroupStore(database)
    first = second = store.group("shop")
    store.put(first, replace(first.group, epoch=5))
    with pytest.raises(Conflict):
        store.put(second, replace(second.group, epoch=9))
    assert store.group("shop").group.epoch == 5


def test_without_data_the_primary_is_whatever_instance_the_file_names(database):
    servers, store = Store(database, SystemClock()), GroupStore(database)
    assert store.group("shop").group.primary == "i1"
    servers.add_instance("i9", server_id="s1", purpose="serve", zone="a", image_id="x", run_list={}, sealed_inputs="")
    assert store.group("shop").group.primary == "i9"
    servers.set_initialised("s1")
    servers.add_instance("i10", server_id="s1", purpose="serve", zone="a", image_id="x", run_list={}, sealed_inputs="")
    assert store.group("shop").group.primary == "i9", "another incarnation is not the one with the data"


def test_what_an_operator_says_keeps_the_rest(database):
    store = GroupStore(database)
    stored = store.group("shop")
    store.put(stored, replace(stored.group, epoch=4))
    store.change("shop", paused="ann: works on the disks")
    group = store.group("shop").group
    assert (group.epoch, group.paused) == (4, "ann: works on the disks")


def test_the_file_says_how_patient_failover_is(database):
    store = GroupStore(database)
    before = store.group("shop").preset
    spec = read_deployment(FILE.replace("durability: strict", "durability: strict, failover: careful"))

    Store(database, SystemClock()).put_deployment(spec, new_id="d", new_server_ids={"db1": "s1", "db2": "s2"})

    assert (before, store.group("shop").preset) == ("normal", "careful")
    assert {each.name: (each.rank, each.never_leads) for each in store.group("shop").members.values()} == {
        "db1": (0, False), "db2": (1, False),
    }  # fmt: skip
    never = read_deployment(FILE.replace("durability: strict", "never_primary: [db2]"))
    Store(database, SystemClock()).put_deployment(never, new_id="d", new_server_ids={"db1": "s1", "db2": "s2"})
    assert store.group("shop").members["i2"].never_leads
    assert set(FAILOVER_PRESETS) == set(PRESETS)


@pytest.mark.parametrize("state", list(State))
def test_whoever_may_lead_is_a_member_in_all_views(database, state):
    servers = Store(database, SystemClock())
    servers.set_initialised("s1")
    servers.change_instance("i2", state=state)

    (observed,) = SiteStore(database).observe()

    told = view_for(observed, "db1")["database"]["members"]
    assert {each["instance"] for each in told} == set(GroupStore(database).group("shop").members)


def test_one_that_may_acknowledge_is_a_member_while_it_is_ended_and_when_the_file_has_it_no_more(database):
    servers, store = Store(database, SystemClock()), GroupStore(database)
    servers.set_initialised("s1")
    servers.change_instance("i2", state="decommissioning")
    assert set(store.group("shop").members) == {"i1"}

    store.put(store.group("shop"), replace(store.group("shop").group, sync_set=frozenset({"i2"})))
    assert set(store.group("shop").members) == {"i1", "i2"}

    alone = read_deployment(FILE.replace(", replicas: [db2], durability: strict", ""))
    servers.put_deployment(alone, new_id="d", new_server_ids={"db1": "s1", "db2": "s2"})
    assert set(store.group("shop").members) == {"i1", "i2"}
    assert store.group("shop").empty == ()

    servers.change_instance("i2", state="terminated")
    assert set(store.group("shop").members) == {"i1"}
    servers.change_instance("i1", state="decommissioning")
    assert set(store.group("shop").members) == {"i1"}, "a primary takes writes until its scripts have stopped it"
