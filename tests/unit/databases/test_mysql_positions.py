"""MySQL's sets of GTIDs against a model that keeps every number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaunch.databases.mysql import MySQL
from relaunch.databases.mysql_gtids import LARGEST, gtid_set, text_of, union, without
from relaunch.errors import BadInput

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "94509f34-e6a9-11f1-829e-d63b6a58d280"
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
