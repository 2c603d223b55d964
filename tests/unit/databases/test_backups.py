"""Chains, what is due, red and green, and what retention lets go."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaunch.clock import SetClock
from relaunch.databases.backup_catalogue import Catalogue, retention_of, schedule_of
from relaunch.databases.backup_shown import shown_schedule
from relaunch.databases.backups import (
    Backup,
    Kind,
    Known,
    Proof,
    Retention,
    Schedule,
    Shipping,
    chain,
    due,
    newest,
    status,
    to_go,
    whole,
)
from relaunch.errors import BadInput, FormatError
from relaunch.servers.deployments import read_deployment
from relaunch.storage.memory import MemoryStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def backup(
    id: str, *, on: str | None = None, ago: timedelta = timedelta(), role: str = "replica", fault: str = ""
) -> Backup:
    return Backup(
        id=id, kind=Kind.INCREMENTAL if on else Kind.FULL, parent=on, server="db2", role=role, begun=NOW - ago,
        ended=NOW - ago, gtid="0-1-1", stored_bytes=1, data_bytes=1, recipient="age1", fault=fault,
    )  # fmt: skip


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


CHAIN = (backup("f", ago=hours(2)), backup("i1", on="f", ago=hours(1)), backup("i2", on="i1", ago=hours(0.1)))
PROVEN = Proof(backup="i1", at=NOW - hours(1), proven=True)
LOGS = Shipping(at=NOW, gtid="0-1-9", server="db1", stream="1")
FAILED_PROOF = Proof(backup="i2", at=NOW, proven=False, why="WRONG KEY")
GREEN = Known(backups=CHAIN, proofs=(PROVEN,), shipping=LOGS)


def test_a_chain_goes_from_the_full_one_up() -> None:
    assert [each.id for each in chain(CHAIN, "i2")] == ["f", "i1", "i2"]


def test_a_missing_or_damaged_link_is_named_and_the_newest_whole_one_counts() -> None:
    with pytest.raises(BadInput, match="i1, which i2 builds on"):
        chain((CHAIN[0], CHAIN[2]), "i2")
    damaged = (CHAIN[0], replace(CHAIN[1], fault="object x is missing"), CHAIN[2])
    with pytest.raises(BadInput, match="i1 is damaged"):
        chain(damaged, "i2")
    best = newest(damaged)

    assert best is not None and best.id == "f"
    assert newest([replace(CHAIN[0], fault="gone"), *CHAIN[1:]]) is None


def test_a_chain_that_bites_its_tail_ends() -> None:
    assert not whole([backup("a", on="b"), backup("b", on="a")])


def test_a_week_of_incrementals_is_judged_at_once() -> None:
    """By the same loop that looks after the databases: until it is done no failover is."""
    made = [backup("b0", ago=hours(1000 / 6))]
    made += [backup(f"b{each}", on=f"b{each - 1}", ago=hours((1000 - each) / 6)) for each in range(1, 1000)]
    proofs = tuple(Proof(backup=each.id, at=each.ended, proven=True) for each in made)
    begun = time.process_time()

    verdict = status(Known(backups=tuple(made), proofs=proofs), Schedule(), NOW)
    gone = to_go(made, proofs, Retention(), NOW)

    assert time.process_time() - begun < 2
    assert (verdict.newest, verdict.newest_proven, gone) == ("b999", "b999", ())


def test_green_is_green() -> None:
    found = status(GREEN, Schedule(), NOW)

    assert (found.green, found.reasons, found.newest, found.newest_proven) == (True, (), "i2", "i1")


@pytest.mark.parametrize(
    ("known", "after", "why"),
    [
        (replace(GREEN, backups=()), hours(0), "no complete backup"),
        (replace(GREEN, proofs=()), hours(0), "no backup was proven yet"),
        (replace(GREEN, proofs=(PROVEN, FAILED_PROOF)), hours(0), "the proof of i2 failed: WRONG KEY"),
        (replace(GREEN, backups=(CHAIN[0], CHAIN[2])), hours(0), "links are missing or damaged below i2"),
        (replace(GREEN, shipping=None), hours(0), "no binary log was ever shipped"),
        (GREEN, hours(0.05), "no binary log was shipped since"),
        (replace(GREEN, failed=(("full backup of x/db2", "expired"),)), hours(0), "of x/db2 failed: expired"),
        (replace(GREEN, shipping=replace(LOGS, at=NOW + hours(1))), hours(1), "the newest backup is of"),
        (replace(GREEN, shipping=replace(LOGS, at=NOW + hours(9))), hours(9), "the last proof is of"),
        (replace(GREEN, shipping=replace(LOGS, at=NOW + hours(400))), hours(400), "the weekly full backup"),
    ],
)  # fmt: skip
def test_each_reason_to_be_red(known: Known, after: timedelta, why: str) -> None:
    found = status(known, Schedule(), NOW + after)

    assert not found.green
    assert any(why in reason for reason in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("backups", "proofs", "has_replica", "wanted"),
    [
        ((), (), True, ("full", "replica")),
        ((), (), False, ("full", "primary")),
        ((backup("f"),), (), True, ("full", "primary")),
        ((backup("f"), backup("p", role="primary")), (), True, ("prove", "")),
        ((*CHAIN, backup("p", role="primary", ago=hours(3))), (PROVEN,), True, None),
        ((*CHAIN[:2], backup("p", role="primary", ago=hours(3))), (PROVEN,), True, ("incremental", "replica")),
        ((*CHAIN[:2], backup("p", role="primary", ago=hours(25))), (PROVEN,), True, ("full", "primary")),
        ((*CHAIN, backup("p", role="primary", ago=hours(3))), (replace(PROVEN, at=NOW - hours(1.9)),), True, None),
        ((*CHAIN, backup("p", role="primary", ago=hours(0.5))), (PROVEN,), True, ("prove", "")),
        ((backup("f", role="primary", ago=hours(1)),), (PROVEN,), False, ("incremental", "primary")),
    ],
)
def test_what_is_due(
    backups: tuple[Backup, ...], proofs: tuple[Proof, ...], has_replica: bool, wanted: tuple[str, str] | None
) -> None:
    assert due(backups, proofs, Schedule(), NOW, has_replica=has_replica) == wanted


def test_the_primary_is_backed_up_as_often_as_was_said_also_without_a_replica_and_late_is_red() -> None:
    schedule = Schedule(incremental=None, primary=hours(24))
    old, new = (backup("p", role="primary", ago=hours(each)) for each in (49, 23))

    assert due((old,), (PROVEN,), schedule, NOW, has_replica=False) == ("full", "primary")
    assert due((new,), (PROVEN, replace(PROVEN, at=NOW)), schedule, NOW, has_replica=False) is None
    late = replace(GREEN, backups=(*CHAIN, old))
    assert status(late, schedule, NOW).reasons == ("the backup of the primary has not happened on time",)
    assert status(replace(late, backups=(*CHAIN, old, new)), schedule, NOW).green
    assert status(late, replace(schedule, primary=None), NOW).green


def test_a_full_backup_of_a_server_whose_clock_is_a_little_ahead_is_proven_once() -> None:
    ahead = replace(backup("p", role="primary", ago=-hours(0.1)), stored=NOW - hours(0.05))
    backups, proof = (*CHAIN, ahead), replace(PROVEN, backup="p", at=NOW)

    assert due(backups, (PROVEN,), Schedule(), NOW, has_replica=True) == ("prove", "")
    assert due(backups, (PROVEN, proof), Schedule(), NOW, has_replica=True) is None


def test_a_proof_that_failed_is_tried_again_after_an_hour() -> None:
    backups = (*CHAIN, backup("p", role="primary", ago=hours(3)))
    proven, failed = replace(PROVEN, at=NOW - hours(2)), replace(FAILED_PROOF, at=NOW - hours(1))

    assert due(backups, (proven, failed), Schedule(), NOW, has_replica=True) == ("prove", "")
    assert due(backups, (proven, failed), Schedule(), NOW - hours(0.1), has_replica=True) is None
    assert due(backups, (failed, replace(PROVEN, at=NOW - hours(0.9))), Schedule(), NOW, has_replica=True) is None
    assert due(backups, (proven, failed), Schedule(prove=None), NOW, has_replica=True) is None


def test_never_is_never_due() -> None:
    never = schedule_of({name: "never" for name in ("incremental", "full", "primary", "prove")})

    assert due((), (), never, NOW, has_replica=True) is None
    assert due(CHAIN, (), never, NOW + hours(1000), has_replica=True) is None


def test_of_many_days_the_newest_of_each_period_stay() -> None:
    daily = [backup(f"d{day:03}", ago=timedelta(days=day)) for day in range(400)]
    proven = (Proof(backup="d000", at=NOW, proven=True),)

    gone = {each.id for each in to_go(daily, proven, Retention(last=3, daily=5, weekly=3, monthly=3, yearly=2), NOW)}

    kept = sorted(set(each.id for each in daily) - gone)
    # 22 November 2026 is a Sunday: weeks end with d000, d007, d014; months with d000, d022, d053; 2025 with d326.
    assert kept == ["d000", "d001", "d002", "d003", "d004", "d007", "d014", "d022", "d053", "d326"]


LINKS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3000), st.booleans()), max_size=25)


@given(LINKS, st.integers(0, 24), st.integers(1, 5))
def test_what_goes_never_breaks_what_stays_nor_the_proven_chain(
    links: list[tuple[int, int, bool]], proof: int, last: int
) -> None:
    backups: list[Backup] = []
    ago = 100_000
    for number, (back, minutes, damaged) in enumerate(links):
        ago -= minutes
        on = f"b{number - back}" if back and number >= back else None
        backups.append(backup(f"b{number}", on=on, ago=timedelta(minutes=ago), fault="lost" if damaged else ""))
    proofs = (Proof(backup=f"b{proof}", at=NOW, proven=True),)
    fit = whole(backups)

    gone = {
        each.id for each in to_go(backups, proofs, Retention(last=last, daily=1, weekly=1, monthly=1, yearly=1), NOW)
    }

    kept = [each for each in backups if each.id not in gone]
    assert whole(kept) == {each.id for each in kept} & fit
    if f"b{proof}" in fit:
        assert f"b{proof}" in whole(kept)
    else:
        assert fit <= {each.id for each in kept}  # nothing proven: every whole one may be the only good one
    assert newest(kept) == newest(backups)


def test_the_deployment_file_says_how_often() -> None:
    text = "deployment: d\nservers:\n  a: {template: mysql}\ndatabase: {primary: a, backups: {%s}}\n"
    spec = read_deployment(text % "incremental: 5m, full: never, last: 7").database

    assert spec is not None
    assert schedule_of(spec.backups) == Schedule(incremental=timedelta(minutes=5), full=None)
    assert shown_schedule(schedule_of(spec.backups)) == {
        "incremental": 300, "full": None, "primary": 86400, "prove": 14400, "schemas": 86400
    }  # fmt: skip
    assert retention_of(spec.backups) == Retention(last=7)
    for wrong in ("full: soon", "last: many", "hourly: 1h"):
        with pytest.raises(FormatError):
            read_deployment(text % wrong)


async def test_the_catalogue_sees_what_objects_lack(tmp_path: object) -> None:
    import json

    from sqlalchemy import create_engine

    from relaunch.records.schema import metadata

    database, store = create_engine("sqlite://"), MemoryStore(SetClock(NOW))
    metadata.create_all(database)
    manifest = {
        "id": "f", "kind": "full", "parent": None, "server": "db2", "role": "replica", "begun": "2026-11-22T11:00:00Z",
        "ended": "2026-11-22T11:01:00Z", "gtid": "0-1-1", "stored_bytes": 3, "data_bytes": 9, "recipient": "age1",
        "objects": [{"name": "data.0", "size_bytes": 3, "sha256": ""}],
    }  # fmt: skip
    await store.put("d/backups/f/manifest.json", json.dumps(manifest))
    await store.put("d/backups/f/data.0", "xyz")
    await store.put("d/backups/half/data.0", "xyz")
    catalogue = Catalogue(database, store, "d")

    await catalogue.refresh(("",))
    whole = [(each.id, each.fault) for each in catalogue.backups()]
    await store.delete(["d/backups/f/data.0"])
    stored = await catalogue.refresh(("",))

    assert whole == [("f", "")]
    assert [each.stored for each in catalogue.backups()] == [NOW]
    assert [each.fault for each in catalogue.backups()] == ["object data.0 is missing"]
    removed = await catalogue.remove("", (), stored, NOW + timedelta(days=2))
    assert removed == ["d/backups/half/data.0"]


def test_a_backup_of_a_time_to_come_is_red_and_keeps_no_other_from_being_made() -> None:
    ahead = backup("ahead", ago=-hours(400))
    known = replace(GREEN, backups=(*CHAIN, ahead))

    assert "ahead is of a time to come: is a clock wrong on db2" in status(known, Schedule(), NOW).reasons[0]
    late = (backup("old", ago=hours(24 * 8)), ahead)
    assert due(late, (PROVEN,), Schedule(), NOW, has_replica=True) == ("full", "replica")


def test_a_server_whose_clock_is_ahead_is_not_backed_up_again_and_again() -> None:
    ahead = [
        replace(backup("ahead", ago=-hours(400), role=role), stored=NOW - hours(0.1)) for role in ("replica", "primary")
    ]
    backups = (backup("old", ago=hours(24 * 8)), *ahead)
    proofs = (PROVEN, replace(PROVEN, backup="old"))

    assert due(backups, proofs, Schedule(), NOW, has_replica=True) is None
    assert due(backups, proofs, Schedule(), NOW + hours(0.1), has_replica=True) == ("incremental", "replica")
    also_the_store = [replace(each, stored=each.ended) for each in backups]
    assert due(also_the_store, proofs, Schedule(), NOW, has_replica=True) == ("full", "replica")


AHEAD = Proof(backup="f", at=NOW + hours(24 * 365), proven=True)
JUST_FAILED = replace(FAILED_PROOF, at=NOW - hours(0.02))


@pytest.mark.parametrize("days", [0, 30, 200])
def test_a_proof_of_a_time_to_come_keeps_none_from_being_made_and_hides_no_failure(days: int) -> None:
    now, later = NOW + hours(24 * days), hours(24 * days)
    fresh = (backup("f", ago=hours(0.1) - later), backup("p", role="primary", ago=hours(0.1) - later))
    logs, failed = replace(LOGS, at=now), replace(JUST_FAILED, at=now - hours(0.02))

    assert due(fresh, (AHEAD,), Schedule(), now, has_replica=True) == ("prove", "")
    found = status(Known(backups=fresh, proofs=(failed, AHEAD), shipping=logs), Schedule(), now)
    assert found.reasons == (
        "the proof of i2 failed: WRONG KEY",
        "a proof of f is of a time to come: is the clock wrong here, or was it?",
    )
    assert found.newest_proven is None
    assert "no backup was proven yet" in status(replace(GREEN, proofs=(AHEAD,)), Schedule(), NOW).reasons


def test_once_another_proof_is_right_one_of_a_time_to_come_is_told_no_more() -> None:
    found = status(replace(GREEN, proofs=(PROVEN, AHEAD)), Schedule(), NOW)

    assert (found.green, found.newest_proven) == (True, "i1")


def test_of_binary_log_of_a_time_to_come_nobody_knows_whether_it_is_shipped() -> None:
    ahead = replace(GREEN, shipping=replace(LOGS, at=NOW + hours(24)))

    assert status(ahead, Schedule(), NOW).reasons == (
        "the newest binary log is of a time to come: is a clock wrong on db1, or here?",
    )


def test_a_full_backup_of_a_time_to_come_does_not_ask_for_one_proof_after_the_other() -> None:
    backups = (*CHAIN, backup("p", role="primary", ago=hours(3)), backup("ahead", ago=-hours(400)))

    assert due(backups, (PROVEN,), Schedule(), NOW, has_replica=True) is None


def test_retention_lets_nothing_go_because_of_a_proof_of_a_time_to_come() -> None:
    daily = [backup(f"d{day}", ago=timedelta(days=day)) for day in range(9)]
    least, proven = Retention(last=1, daily=0, weekly=0, monthly=0, yearly=0), Proof(backup="d3", at=NOW, proven=True)
    ahead = Proof(backup="d1", at=NOW + hours(24 * 365), proven=True)

    assert to_go(daily, (ahead,), least, NOW) == (), "nothing else is proven: any may be the only good one"
    assert [each.id for each in to_go(daily, (proven, ahead), least, NOW)] == ["d8", "d7", "d6", "d5", "d4"]


def test_what_somebody_proves_of_before_hides_no_failure_of_later() -> None:
    at = NOW - hours(0.05)
    earlier, again = replace(PROVEN, backup="f", at=NOW), replace(PROVEN, backup="i2", at=NOW)
    failed = replace(FAILED_PROOF, at=at)
    why = "the proof of i2 failed: WRONG KEY"

    assert status(replace(GREEN, proofs=(PROVEN, failed, earlier)), Schedule(), NOW).reasons == (why,)
    assert status(replace(GREEN, proofs=(PROVEN, failed, again)), Schedule(), NOW).green
    later = replace(GREEN, backups=(*CHAIN, backup("g")), proofs=(PROVEN, failed, replace(PROVEN, backup="g", at=NOW)))
    assert status(later, Schedule(), NOW).green
    unknown = replace(failed, backup="latest")
    assert status(replace(GREEN, proofs=(PROVEN, unknown, earlier)), Schedule(), NOW).green


def test_what_somebody_proves_of_before_puts_the_proof_of_the_newest_off_for_none() -> None:
    backups = (*CHAIN, backup("p", role="primary", ago=hours(3)))
    proven = replace(PROVEN, at=NOW - hours(9), backup="p")
    by_hand = (proven, *(replace(PROVEN, backup="f", at=NOW - hours(each), chosen=True) for each in (0.05, 0.01)))
    known = replace(GREEN, backups=backups, proofs=by_hand)

    assert due(backups, by_hand, Schedule(), NOW, has_replica=True) == ("prove", "")
    assert "the last proof is of 2026-11-22 03:00:00" in status(known, Schedule(), NOW).reasons[0]
    assert status(replace(GREEN, proofs=by_hand[1:]), Schedule(), NOW).green, "the first is about to be made"


def test_a_backup_that_is_not_there_any_more_proves_nothing() -> None:
    gone = replace(PROVEN, backup="x")

    found = status(replace(GREEN, proofs=(gone,)), Schedule(), NOW)

    assert (found.reasons, found.newest_proven) == (("no backup was proven yet",), None)
    assert status(replace(GREEN, proofs=(PROVEN, gone)), Schedule(), NOW).newest_proven == "i1"
