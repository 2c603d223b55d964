"""MySQL's sets of GTIDs against a model that keeps every number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaunch.bus.messages import DatabaseReport
from relaunch.databases.group import Member, Seen
from relaunch.databases.mysql import MySQL
from relaunch.databases.mysql_gtids import LARGEST, gtid_set, text_of, union, without
from relaunch.databases.positions import covers, parted
from relaunch.errors import BadInput

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "94509f34-e6a9-11f1-829e-d63b6a58d280"
C = "c0ffee00-e6a9-11f1-829e-d63b6a58d280"
Model = frozenset[tuple[str, str, int]]  # uuid, tag, number

models = st.frozensets(
    st.tuples(st.sampled_from([A, B]), st.sampled_from(["", "backup", "site_7"]), st.integers(1, 30)), max_size=40
)


def written(model: Model, draw: st.DrawFn) -> str:
    """The model as MySQL could write it: in any order, in pieces that touch or overlap, with tags once or again."""
    parts = []
    for uuid, tag in draw(st.permutations(sorted({(uuid, tag) for uuid, tag, _ in model}))):
        numbers = sorted(number for u, t, number in model if (u, t) == (uuid, tag))
        pieces = []
        for number in numbers:
            last = number
            while last + 1 in numbers and draw(st.booleans()):
                last += 1
            pieces.append(f"{number}-{last}" if last > number or draw(st.booleans()) else f"{number}")
        text = ":".join([uuid, *([tag] if tag else []), *draw(st.permutations(pieces))])
        parts.append(text.upper() if draw(st.booleans()) else text)
    return draw(st.sampled_from([",", ",\n", " , "])).join(parts)


@st.composite
def positions(draw: st.DrawFn) -> tuple[str, Model]:
    model = draw(models)
    return written(model, draw), model


def members(position: str) -> Model:
    return frozenset(
        (uuid, tag, number)
        for (uuid, tag), intervals in gtid_set(position).items()
        for first, last in intervals
        for number in range(first, last + 1)
    )


@given(positions())
def test_every_number_written_is_read_and_no_other(position: tuple[str, Model]) -> None:
    text, model = position
    assert members(text) == model
    assert members(text_of(gtid_set(text))) == model


@given(positions(), positions())
def test_covers_union_and_what_is_left_are_those_of_sets(one: tuple[str, Model], other: tuple[str, Model]) -> None:
    (text, model), (other_text, other_model) = one, other
    assert MySQL().covers(text, other_text) == (other_model <= model)
    assert members(union(text, other_text)) == model | other_model
    assert members(without(text, other_text)) == model - other_model


@given(positions())
def test_the_same_set_is_written_the_same_way(position: tuple[str, Model]) -> None:
    text, _ = position
    once = text_of(gtid_set(text))
    assert text_of(gtid_set(once)) == once
    assert MySQL().covers(once, text) and MySQL().covers(text, once)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("", ""),
        (f"{A}:1-5:7,\n{B}:1", f"{A}:1-5:7,{B}:1"),
        (f"{A}:5:1-4", f"{A}:1-5"),
        (f"{A}:1-3:backup:1-2:9:other:4", f"{A}:1-3:backup:1-2:9:other:4"),
        (f"{A}:backup:1,{A}:1", f"{A}:1:backup:1"),
        (f"{A}:Backup:1", f"{A}:backup:1"),
        (f"{A}:1-{LARGEST}", f"{A}:1-{LARGEST}"),
        (f"{A}:1,", f"{A}:1"),
    ],
)
def test_a_set_in_mysqls_own_words(text: str, means: str) -> None:
    assert text_of(gtid_set(text)) == means


@pytest.mark.parametrize(
    "text",
    [
        *("0-1-100", "nonsense", A, f"{A}:", f"{A}:0", f"{A}:5-4", f"{A}:1-", f"{A}:1--2", f"{A}:-1", f"{A}:tag"),
        *(f"{A}:1:tag", f"{A}:tag:other:1", f"{A}:9tag:1", f"{A}:{'t' * 33}:1", f"{A}:{LARGEST + 1}", f"{A}:٣"),
        *(f"{A}:1;{B}:1", f"{A[:-1]}:1", f"{A}::1"),
    ],
)
def test_what_is_no_set_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="not a set of GTIDs"):
        MySQL().covers("", text)
    with pytest.raises(BadInput, match="not a set of GTIDs"):
        MySQL().covers(text, "")


def seen(*reports: DatabaseReport) -> Seen:
    members = [Member(id=f"s{n}", name="", address="", report=report) for n, report in enumerate(reports)]
    return Seen(now=0.0, members={member.id: member for member in members})


def test_who_has_not_reached_its_server_yet_does_not_say_how_positions_are_compared():
    starting = DatabaseReport(dialect="mariadb", epoch=0, role="", answers=False)
    mysql = replace(starting, dialect="mysql", executed=f"{A}:1-5", received=f"{A}:1-5")

    assert covers(seen(mysql, starting))(f"{A}:1-5", f"{A}:1-4")
    assert not parted(seen(mysql, starting))(mysql, mysql)
    assert covers(seen(starting))("", "")
    assert covers(seen(starting, replace(starting, executed="0-1-5")))("0-1-5", "0-1-4")


PRIMARY = (f"{A}:1-100", f"{A} writes")
FENCED = (f"{A}:1-100", A)
PARTED = {
    "a replica that wrote itself": (PRIMARY, (f"{A}:1-100,{B}:1", B)),
    "a replica that wrote itself, and is behind": (PRIMARY, (f"{A}:1-90,{B}:1", B)),
    "a replica that wrote itself, and is ahead of the word of its primary": (PRIMARY, (f"{A}:1-110,{B}:1", B)),
    "a replica that somebody lets write": (PRIMARY, (f"{A}:1-100,{B}:1", f"{B} writes")),
    "under a tag": (PRIMARY, (f"{A}:1-100,{B}:backup:1", B)),
    "in the middle of what it wrote when it led": ((f"{A}:1-9,{B}:1-3:5", f"{A} writes"), (f"{A}:1-9,{B}:1-5", B)),
    "an old primary with what nobody got": ((f"{A}:1-9,{B}:1-50", f"{A} writes"), (f"{A}:1-5,{B}:1-51", B)),
    "what a former primary sent to nobody else": ((f"{A}:1-9,{C}:1-100", f"{A} writes"), (f"{A}:1-9,{C}:1-105", B)),
    "that, and it is ahead of the word of its primary":
        ((f"{A}:1-9,{C}:1-100", f"{A} writes"), (f"{A}:1-12,{C}:1-105", B)),
    "a replica that wrote itself, and its primary follows somebody, too":
        ((f"{A}:1-100,{C}:1-5", f"{A} writes and follows"), (f"{A}:1-110,{B}:1,{C}:1-7", B)),
    "each has what the other lacks, none takes writes": (FENCED, (f"{A}:1-99,{B}:1", B)),
}  # fmt: skip
SAME = {
    "a replica behind": (PRIMARY, (f"{A}:1-90", B)),
    "a replica ahead of the word of its primary": (PRIMARY, (f"{A}:1-110", B)),
    "one with gaps, ahead of that word": (PRIMARY, (f"{A}:1-90:92-110", B)),
    "one just begun": (PRIMARY, ("", B)),
    "what a former primary wrote, and it is behind": ((f"{A}:1-9,{C}:1-100", f"{A} writes"), (f"{C}:1-90", B)),
    "an old primary that follows": ((f"{A}:1-9,{B}:1-50", f"{A} writes"), (f"{A}:1-5,{B}:1-50", B)),
    "an old primary whose prompt nobody got": ((f"{A}:1-9,{B}:1-50", f"{A} writes"),
        (f"{A}:1-9,{B}:1-50:relaunch_prompt:1-3", B)),
    "what somebody else wrote, and comes over a channel of the primary's":
        ((f"{A}:1-100,{C}:1-5", f"{A} writes and follows"), (f"{A}:1-100,{C}:1-7", B)),
    "a primary that started again with less than what somebody wrote when he led":
        ((f"{A}:1-9,{C}:1-100", A), (f"{A}:1-9,{C}:1-105", B)),
    "the prompt of a former primary": ((f"{A}:1-9,{C}:1-5", f"{A} writes"),
        (f"{A}:1-9,{C}:1-5:relaunch_prompt:1", B)),
    "a primary that started again with less than what its replica wrote when it led":
        ((f"{A}:1-9,{B}:1-50", A), (f"{A}:1-9,{B}:1-51", B)),
    "two servers of one uuid": (PRIMARY, (f"{A}:1-101", A)),
    "an agent that says no history yet": (PRIMARY, (f"{A}:1-90,{B}:1", "")),
    "a primary whose agent says no history yet": ((f"{A}:1-100", ""), (f"{A}:1-90,{B}:1", B)),
    "the same": (PRIMARY, PRIMARY),
}  # fmt: skip


@pytest.mark.parametrize("servers", PARTED.values(), ids=PARTED)
def test_a_server_with_writes_of_its_own_has_parted_from_the_one_that_leads(
    servers: tuple[tuple[str, str], tuple[str, str]],
):
    one, other = servers
    assert MySQL().parted(*one, *other)


@pytest.mark.parametrize("servers", SAME.values(), ids=SAME)
def test_a_server_without_writes_of_its_own_has_not(servers: tuple[tuple[str, str], tuple[str, str]]):
    one, other = servers
    assert not MySQL().parted(*one, *other)
