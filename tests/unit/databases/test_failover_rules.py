"""Each rule about a primary has a look that reaches it; each false alarm of the manual is one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from looks import (
    DEAF,
    GONE,
    LONG_DEAF,
    LOSS_ALLOWED,
    NOW,
    REFUSED,
    SILENT,
    STOPPED,
    SYNC,
    case,
    decided,
    look,
    member,
    probe,
)

from relaunch.bus.messages import Probe
from relaunch.databases.evidence import gather
from relaunch.databases.group import Group, Mode, Observer, Seen, Step
from relaunch.databases.membership import lost
from relaunch.databases.rules import DETECTION, PERMISSION, Verdict, judged

TIMEOUT_SHORT = {"f1": probe("timeout", 1.0, 1.1), "f2": probe("timeout", 1.0, 1.1)}
UNHEARD = tuple(member(id, age=9.0, connected=False) for id in ("s2", "s3"))
NEVER = tuple(member(id, unheard=True, age=4.9, connected=False) for id in ("s1", "s2", "s3"))
NEVER_LOOKED = tuple(Observer(id=f, name=f, connected=False, heard_seconds=float("inf")) for f in ("f1", "f2"))
NO_WATCHERS = tuple(Observer(id=f, name=f, connected=False, heard_seconds=9.0) for f in ("f1", "f2"))
LONG = {"f1": probe("timeout", 11.0, 11.0), "f2": probe("timeout", 11.0, 11.0)}
VERY_DEAF = tuple(member(id, received_seconds=11.0) for id in ("s2", "s3"))
FULL = {"f1": probe("full of connections"), "f2": probe("full of connections")}

DETECTED: tuple[tuple[str, str, Seen], ...] = (
    ("all is well", "healthy", look()),
    ("one front end is cut off", "healthy", look(f1=probe("timeout", 20.0, 20.0))),
    ("a replica is broken", "healthy", look(member("s2", receiving=False, received_seconds=60.0, error="1062"))),
    ("all replicas are broken, front ends hear it", "healthy", look(*VERY_DEAF)),
    ("the controller hears nobody", "controller is blind", look(GONE, *UNHEARD, observers=NO_WATCHERS)),
    ("the controller hears two of five", "controller is blind", look(GONE, DEAF[0], UNHEARD[1], observers=NO_WATCHERS)),
    ("terminated", "instance gone", look(members={"s2": member("s2"), "s3": member("s3")})),
    ("killed", "process gone", look(STOPPED, *DEAF, **REFUSED)),
    ("killed, and starting again", "process gone",
     look(member("s1", answers=False, trouble="starting", trouble_seconds=0.1), *DEAF, **REFUSED)),
    ("killed 0.2 s ago", "not proven",
     look(STOPPED, *DEAF, f1=probe("refused", 0.2, 0.3), f2=probe("refused", 0.2, 0.3))),
    ("its agent says stopped, the others hear it", "not proven", look(STOPPED)),
    ("killed, and its agent too", "refused", look(member("s1", age=2.0), *DEAF, **REFUSED)),
    ("a firewall refuses front ends, replicas hear it", "only we are cut off", look(member("s1", age=2.0), **REFUSED)),
    ("powered off, says the cloud", "not running in the cloud",
     look(member("s1", age=1.2, connected=False, cloud=False), *DEAF,
          f1=probe("timeout", 1.0, 1.0), f2=probe("timeout", 1.0, 1.0))),
    ("its agent died", "only we are cut off", look(member("s1", age=60.0, connected=False))),
    ("its agent died, the cloud errs", "only we are cut off",
     look(member("s1", age=60.0, connected=False, cloud=False))),
    ("frozen for 4 s", "frozen",
     look(member("s1", answers=False, trouble="frozen", trouble_seconds=4.0), *LONG_DEAF, **SILENT)),
    ("frozen for 1 s", "in doubt",
     look(member("s1", answers=False, trouble="frozen", trouble_seconds=1.0), *DEAF, **TIMEOUT_SHORT)),
    ("overloaded: its agent gets no answer, replicas receive", "in doubt",
     look(member("s1", answers=False, trouble="frozen", trouble_seconds=9.0), **SILENT)),
    ("vanished", "silence", look(GONE, *LONG_DEAF, **SILENT)),
    ("vanished 1 s ago", "in doubt", look(member("s1", age=1.6, connected=False), *DEAF, **TIMEOUT_SHORT)),
    ("started again with less than replicas have", "lost writes", look(member("s1", read_only=True, executed="6"))),
    ("started again beside a replica with writes of its own", "started again",
     look(member("s1", read_only=True), member("s3", executed="9", received="9", history="own"))),
    ("started again", "started again", look(member("s1", read_only=True))),
    ("its disk is gone", "disk lost", look(member("s1", stall="read-only file system", write_seconds=11.0))),
    ("disk full", "explained stall", look(member("s1", stall="disk full", write_seconds=60.0))),
    ("a huge transaction", "explained stall", look(member("s1", stall="long transaction", write_seconds=60.0))),
    ("no replica acknowledges", "explained stall", look(member("s1", stall="no acknowledgement", write_seconds=60.0))),
    ("stalled for 11 s", "unexplained stall", look(member("s1", stall="unexplained", write_seconds=11.0))),
    ("overloaded: it commits, slowly", "explained stall",
     look(member("s1", stall="overloaded: other writes end", write_seconds=60.0))),
    ("stalled for 4 s", "in doubt", look(member("s1", stall="unexplained", write_seconds=4.0))),
    ("stalled for 9 s", "healthy", look(member("s1", write_seconds=9.0))),
    ("only we reach it", "unreachable", look(*VERY_DEAF, **LONG)),
    ("only we reach it since 4 s", "in doubt", look(*LONG_DEAF, **SILENT)),
    ("out of connections", "out of connections",
     look(member("s1", answers=False, trouble="full of connections", trouble_seconds=60.0), **FULL)),
)  # fmt: skip


@pytest.mark.parametrize(("story", "rule", "seen"), DETECTED, ids=[each[0] for each in DETECTED])
def test_what_is_seen_reaches_its_rule(story: str, rule: str, seen: Seen):
    found = judged(gather(case(seen)))

    assert found.name == rule
    decision = decided(seen)
    begins = decision.group.change is not None
    assert begins == (found.verdict is Verdict.FAILED)
    if found.verdict is Verdict.PAGE:
        assert rule in [page.rule for page in decision.pages]


SOME = tuple(Observer(id=f, name=f, connected=True, heard_seconds=0.1, probes={"s1": probe()}) for f in ("f1", "f2"))
JUST_STARTED: tuple[tuple[str, str, bool, Seen], ...] = (
    ("nobody is heard yet", "controller is blind", False,
     look(*NEVER, observers=NEVER_LOOKED, watched_seconds=4.9)),
    ("the primary's agent is not heard yet", "only we are cut off", False,
     look(NEVER[0], observers=SOME, watched_seconds=4.9)),
    ("nor is it, and nobody else reaches the primary", "in doubt", False,
     look(replace(NEVER[0], report_seconds=1.5), *DEAF, **TIMEOUT_SHORT, watched_seconds=1.5)),
    ("only its agent is heard yet", "controller is blind", False,
     look(STOPPED, *NEVER[1:], observers=NEVER_LOOKED, watched_seconds=4.9)),
    ("the primary is dead, and an heir is not heard yet", "no failover: not all are heard", False,
     look(replace(NEVER[0], report_seconds=1.5), DEAF[0], NEVER[2], **REFUSED, watched_seconds=1.5)),
    ("nor in time", "no failover: not all are heard", True,
     look(NEVER[0], DEAF[0], NEVER[2], **REFUSED, watched_seconds=5.0)),
    ("nobody in time", "controller is blind", True, look(*NEVER, observers=NEVER_LOOKED, watched_seconds=5.0)),
    ("all were heard, and nobody is any more", "controller is blind", True,
     look(GONE, *UNHEARD, observers=NO_WATCHERS, watched_seconds=4.9)),
    ("one of those that were heard is not any more", "controller is blind", True,
     look(NEVER[0], UNHEARD[0], NEVER[2], observers=NEVER_LOOKED, watched_seconds=4.9)),
    ("a front end that was heard is not any more", "controller is blind", True,
     look(*NEVER, observers=NO_WATCHERS, watched_seconds=4.9)),
    ("all are heard", "explained stall", True,
     look(member("s1", stall="disk full", write_seconds=60.0), watched_seconds=0.5)),
)  # fmt: skip


@pytest.mark.parametrize(("story", "rule", "paged", "seen"), JUST_STARTED, ids=[each[0] for each in JUST_STARTED])
def test_a_controller_that_has_just_started_waits_for_its_agents_before_it_pages(
    story: str, rule: str, paged: bool, seen: Seen
):
    decision = decided(seen)

    assert decision.group == SYNC and decision.rule == rule
    assert (rule in [page.rule for page in decision.pages]) == paged


def test_a_primary_that_is_dead_when_the_controller_starts_is_not_waited_for():
    dead = look(replace(NEVER[0], report_seconds=1.5), *DEAF, **REFUSED, watched_seconds=1.5)

    assert decided(dead).group.change is not None


def test_what_is_wrong_with_a_primary_or_a_replica_that_go_on_is_a_page():
    broken = member("s2", applying=False, error="Duplicate entry '7' for key 'PRIMARY'")

    decision = decided(look(broken, **FULL))

    assert decision.group == SYNC and decision.rule == "healthy"
    pages = {page.rule: page.text for page in decision.pages}
    assert "Duplicate entry" in pages["replica broken"] and "f1, f2" in pages["out of connections"]
    assert decided(look()).pages == ()
    full = {page.rule: page.text for page in decided(look(member("s1", full=True))).pages}
    assert list(full) == ["out of connections"] and "for those who come" in full["out of connections"]


@pytest.mark.parametrize(
    ("free", "size", "told"),
    [
        (0.9e9, 10e9, True),
        (1.1e9, 10e9, False),
        (4.9e9, 900e9, True),
        (5.1e9, 900e9, False),
        (0, 0.1e9, True),
        (None, None, False),
    ],
)
def test_a_disk_that_fills_is_a_page_before_it_is_full(free: float | None, size: float | None, told: bool) -> None:
    room = {"free_bytes": free, "disk_bytes": size}

    primary, replica = (decided(look(member(id, **room))) for id in ("s1", "s2"))

    assert primary.rule == replica.rule == "healthy"
    assert [page.rule for page in primary.pages] == [page.rule for page in replica.pages] == ["disk nearly full"] * told
    if told:
        assert "db1 of shop" in primary.pages[0].text and "commits wait" in primary.pages[0].text
        assert "db2 of shop" in replica.pages[0].text and "applies nothing" in replica.pages[0].text


def test_every_rule_is_reached():
    assert {rule for _, rule, _ in DETECTED} == {rule.name for rule in DETECTION}


DEAD = look(STOPPED, *DEAF, **REFUSED)
REFUSING: tuple[tuple[str, Group, Seen], ...] = (
    ("no data yet", replace(SYNC, mode=Mode.FORMING), DEAD),
    ("paused", replace(SYNC, paused="Ann: moving racks"), DEAD),
    ("maintenance", SYNC, replace(DEAD, maintenance=True)),
    ("replication was degraded", replace(SYNC, mode=Mode.ASYNC), DEAD),
    ("nobody to take over", SYNC,
     look(STOPPED, *(member(id, delayed=True, receiving=False) for id in ("s2", "s3")), **REFUSED)),
    ("too many", replace(SYNC, failovers=(NOW - 600,)), DEAD),
    ("not all are heard", SYNC, look(STOPPED, DEAF[0], member("s3", age=9.0, connected=False), **REFUSED)),
    ("one may have forgotten", replace(SYNC, forgot=frozenset({"s3"})), DEAD),
)  # fmt: skip


@pytest.mark.parametrize(("rule", "group", "seen"), REFUSING, ids=[each[0] for each in REFUSING])
def test_a_failed_primary_is_not_replaced_when_that_could_lose_more(rule: str, group: Group, seen: Seen):
    decision = decided(seen, group)

    assert decision.group.change is None
    assert f"no failover: {rule}" in [page.rule for page in decision.pages]


def test_every_refusal_is_reached():
    assert {rule for rule, _, _ in REFUSING} == {rule.name for rule in PERMISSION}


def test_a_primary_that_lost_writes_takes_none_even_when_there_may_be_no_failover():
    decision = decided(look(member("s1", read_only=True, executed="6")), replace(SYNC, paused="Ann"))

    assert decision.rule == "no failover: paused"
    assert "s1" not in decision.orders
    assert decided(look(member("s1", read_only=True)), replace(SYNC, paused="Ann")).orders["s1"].role == "primary"


def test_three_a_day_are_too_many_although_none_was_within_the_hour():
    spread = replace(SYNC, failovers=(NOW - 80_000, NOW - 50_000, NOW - 20_000))

    assert decided(DEAD, spread).group.change is None
    assert decided(DEAD, replace(spread, failovers=spread.failovers[1:])).group.change is not None


@pytest.mark.parametrize("rule", [each.name for each in PERMISSION if each.lifted])
def test_a_named_person_may_allow_the_loss(rule: str):
    group, seen = next((group, seen) for name, group, seen in REFUSING if name == rule)

    change = decided(seen, replace(group, **LOSS_ALLOWED)).group.change

    assert change is not None and change.step is Step.REVOKE


def test_with_one_replica_and_no_front_end_its_word_and_the_agents_are_two():
    alone = replace(SYNC, sync_set=frozenset({"s2"}))
    members = {"s1": GONE, "s2": LONG_DEAF[0]}
    decision = decided(look(members=members, observers=()), alone)

    assert decision.rule == "silence"


def test_a_killed_process_is_believed_after_the_window_without_another_word():
    """A front end that says once `refused`, and nothing else for 0.4 s, would have said so had it changed."""
    once = {"f1": probe("refused", 0.0, 0.1), "f2": probe("refused", 0.0, 0.1)}

    def after(seconds: float) -> Seen:
        seen = look(STOPPED, *DEAF, **once)
        return replace(seen, observers=tuple(replace(each, heard_seconds=seconds) for each in seen.observers))

    assert decided(after(0.41)).rule == "process gone"
    assert decided(after(0.39)).rule == "not proven"


def test_a_replica_cut_from_everybody_is_no_second_witness_of_a_dead_agent():
    members = {"s1": GONE, "s2": member("s2", age=9.0, connected=False)}
    decision = decided(look(members=members, observers=()), replace(SYNC, sync_set=frozenset({"s2"})))

    assert decision.rule == "controller is blind"
    assert decision.group.change is None


def test_the_other_servers_word_does_not_count_when_it_is_old():
    old = tuple(
        Observer(id=f, name=f, connected=True, heard_seconds=2.0, probes={"s1": Probe(outcome="refused", seconds=9.0)})
        for f in ("f1", "f2")
    )
    assert decided(look(STOPPED, *DEAF, observers=old)).group.change is None


def test_after_a_loss_of_power_no_replica_is_lost_before_the_primary_has_been_there_for_long_enough():
    """All have just started: the replica has received nothing since long ago, and no front end is heard yet."""
    waits = member("s2", receiving=False, received_seconds=None, acknowledging=False)
    unheard = tuple(replace(each, connected=False, probes={}) for each in look().observers)

    assert not lost(case(look(waits, member("s1", answering=0.5), observers=unheard)), "s2")
    assert lost(case(look(waits, member("s1", answering=11.0), observers=unheard)), "s2"), "nobody else has to look"
    assert not lost(case(look(waits, f1=probe("ok", 0.5), f2=probe("timeout", 3.0))), "s2")
    assert lost(case(look(waits)), "s2")


def test_right_after_a_failover_nobody_is_lost_for_what_the_old_primary_did_not_send():
    """Found on real servers: the replica that had heard nothing since the old primary died was replaced at once."""
    waited = look(member("s2", received_seconds=10.6, receiving=False), member("s3"))
    assert decided(waited).cut_off == {"s2"}
    assert decided(waited, replace(SYNC, promoted=NOW - 1.0)).cut_off == frozenset()
    assert decided(waited, replace(SYNC, promoted=NOW - 11.0)).cut_off == {"s2"}
