from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relaunch_agent.streaming import (
    END_BYTES,
    PIECE_BYTES,
    SAMPLE_BYTES_PER_SECOND,
    WHOLE_BYTES,
    Sent,
    after_sending,
    next_piece,
    on_character_bounds,
)


def sent_pieces(totals: list[tuple[float, int]]) -> list[tuple[int, int]]:
    """What is sent when the output grows as (seconds, total), the last one being its end."""
    sent, pieces = Sent(), []
    for number, (now, total) in enumerate(totals):
        while piece := next_piece(sent, total=total, ended=number == len(totals) - 1, now=now):
            pieces.append(piece)
            sent = after_sending(sent, piece, now=now)
    return pieces


def test_small_output_is_sent_whole() -> None:
    assert sent_pieces([(0.1, 10), (0.2, 10), (0.3, 25)]) == [(0, 10), (10, 25)]


def test_a_flood_is_sampled_and_its_end_sent() -> None:
    total = 100 * 1024 * 1024
    pieces = sent_pieces([(0, 50 * 1024 * 1024), (0.1, 60 * 1024 * 1024), (5, 90 * 1024 * 1024), (6, total)])
    assert sum(end - start for start, end in pieces) <= WHOLE_BYTES + 2 * SAMPLE_BYTES_PER_SECOND + END_BYTES
    assert pieces[-1][1] == total and pieces[-1][0] <= total - END_BYTES


def test_slow_output_beyond_the_first_megabyte_has_no_gap() -> None:
    totals = [(float(second), WHOLE_BYTES + second * 10_000) for second in range(60)]
    pieces = sent_pieces(totals)
    assert all(before[1] == after[0] for before, after in pairwise(pieces))


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3_000_000)), min_size=1, max_size=30))
def test_pieces_go_forward_stay_small_and_reach_the_end(steps: list[tuple[float, int]]) -> None:
    totals, now, total = [], 0.0, 0
    for seconds, size in steps:
        now, total = now + seconds, total + size
        totals.append((now, total))
    pieces, at = sent_pieces(totals), 0
    for start, end in pieces:
        assert at <= start < end <= start + PIECE_BYTES
        at = end
    assert at == total
    assert sum(end - start for start, end in pieces) <= WHOLE_BYTES + (now + 2) * SAMPLE_BYTES_PER_SECOND + END_BYTES


@given(st.text(max_size=30), st.integers(0, 60), st.integers(0, 60))
def test_a_cut_never_falls_into_a_character(text: str, first: int, second: int) -> None:
    data = text.encode()
    start, end = sorted((min(first, len(data)), min(second, len(data))))
    front, cut = on_character_bounds(data[start:end])
    cut.decode()
    assert data[start + front : start + front + len(cut)] == cut
    assert len(cut) >= end - start - 6
