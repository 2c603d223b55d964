"""A deployment file's text is changed in one place and nowhere else."""

from __future__ import annotations

import pytest

from relaunch.databases.resizing import emptiest_zone, next_name
from relaunch.databases.resizing_file import with_memory, with_replica, without_replica
from relaunch.errors import BadInput, FormatError
from relaunch.servers.deployments import ServerSpec, read_deployment

FLOW = """deployment: shop
servers: {db1: {template: mysql}, db2: {template: mysql, zone: b}}
database: {primary: db1, replicas: [db2], durability: strict}
"""
BLOCK = """deployment: shop   # ours
servers:
  db1:
    template: mysql
    # the first
    memory: 512M
  db2: {template: mysql, zone: b}  # second

# the group
database:
  primary: db1
  replicas:
    - db2   # near
  durability: strict
credentials: {DB_PASSWORD: generate}
"""
ALONE = """deployment: shop
servers:
  db1: {template: mysql}
database: {primary: db1}"""
FLOW_NEVER = """deployment: shop
servers: {db1: {template: mysql}, db2: {template: mysql}, db3: {template: mysql}}
database: {primary: db1, replicas: [db2, db3], never_primary: [db3]}
"""
BLOCK_NEVER = """deployment: shop
servers:
  db1: {template: mysql}
  db2: {template: mysql}
  db3: {template: mysql}
database:
  primary: db1
  never_primary:
    - db3  # for reports
    - db2
  replicas:
    - db2
    - db3
"""
ONE_NEVER = """deployment: shop
servers: {db1: {template: mysql}, db2: {template: mysql}}
database: {primary: db1, replicas: [db2], never_primary: [db2]}
"""
THIRD = ServerSpec(name="db3", template="mysql", zone="a", memory_bytes=1 << 30, inputs={"X": "text:1, 2"})


@pytest.mark.parametrize("text", [FLOW, BLOCK])
def test_a_replica_comes_and_goes_and_the_rest_stands_as_it_was(text: str) -> None:
    more = with_replica(text, THIRD)

    assert [line for line in text.splitlines() if line not in more.splitlines()] == (
        text.splitlines()[1:] if text is FLOW else []
    )
    spec = read_deployment(more)
    assert spec.server("db3") == THIRD and spec.database is not None and spec.database.replicas == ("db2", "db3")
    assert without_replica(more, "db3") == text
    left = read_deployment(without_replica(more, "db2"))
    assert left.database is not None and left.database.replicas == ("db3",) and left.server("db2") is None


def test_the_first_replica_of_a_file_without_any() -> None:
    spec = read_deployment(with_replica(ALONE, THIRD))

    assert spec.database is not None and spec.database.replicas == ("db3",)


@pytest.mark.parametrize("said", ["", " ~", " null", " []", "   # none yet"])
def test_the_first_replica_of_a_file_that_says_it_has_none(said: str) -> None:
    spec = read_deployment(
        with_replica(f"{ALONE.replace('{primary: db1}', '')}\n  replicas:{said}\n  primary: db1\n", THIRD)
    )

    assert spec.database is not None and spec.database.replicas == ("db3",)


@pytest.mark.parametrize(
    "text", [FLOW.replace(", durability: strict", ""), BLOCK.replace("  durability: strict\n", "")]
)
def test_after_the_last_replica_another_one_can_come(text: str) -> None:
    alone = without_replica(text, "db2")

    assert "replicas" not in alone
    more = read_deployment(with_replica(alone, THIRD))
    assert more.database is not None and more.database.replicas == ("db3",)


@pytest.mark.parametrize(
    ("text", "gone", "never"),
    [
        (FLOW_NEVER, "db3", ()),
        (FLOW_NEVER, "db2", ("db3",)),
        (FLOW_NEVER.replace("[db2, db3]", "[db3, db2]").replace("[db3]}", "[db2, db3]}"), "db3", ("db2",)),
        (BLOCK_NEVER, "db3", ("db2",)),
        (BLOCK_NEVER.replace("    - db2\n  replicas", "  replicas"), "db3", ()),
        (ONE_NEVER, "db2", ()),
    ],
)
def test_one_that_never_leads_goes_from_there_too(text: str, gone: str, never: tuple[str, ...]) -> None:
    left = without_replica(text, gone)

    assert gone not in left and ("never_primary" in left) is bool(never)
    spec = read_deployment(left)
    assert spec.database is not None and spec.database.never_primary == never


def test_the_last_replica_of_a_strict_group_stays() -> None:
    with pytest.raises(BadInput, match="strict needs a replica"):
        without_replica(FLOW, "db2")


def test_the_first_free_name_and_the_emptiest_zone() -> None:
    spec = read_deployment(FLOW)
    assert spec.database is not None

    assert next_name("db1", {"db1", "db2", "db4"}) == "db3" and next_name("data", {"data"}) == "data2"
    assert emptiest_zone(("a", "b", "c"), spec, spec.database) == "c"
    assert emptiest_zone(("a", "b"), spec, spec.database) == "a"


@pytest.mark.parametrize("text", [FLOW, BLOCK, ALONE])
def test_the_memory_of_each_is_written_and_the_rest_stands_as_it_was(text: str) -> None:
    changed = with_memory(text, ("db1", "db2"), 2 << 30)

    assert {server.memory_bytes for server in read_deployment(changed).servers} == {2 << 30}
    assert with_memory(changed, ("db1", "db2"), 2 << 30) == changed
    kept = [line for line in text.splitlines() if "db1:" not in line and "db2:" not in line and "memory" not in line]
    assert [line for line in kept if line not in changed.splitlines()] == []


def test_no_server_is_brought_to_a_size_with_which_none_runs() -> None:
    with pytest.raises(FormatError, match="2097152 bytes, with which no server runs"):
        with_memory(BLOCK, ("db1", "db2"), 2 << 20)
