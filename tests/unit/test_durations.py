from __future__ import annotations

from datetime import timedelta

import pytest

from relaunch.durations import parse_duration, shown_duration
from relaunch.errors import BadInput
from relaunch.servers.sizes import parse_size, shown_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("12", 12),
        (" 3s ", 3),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "-5s", "5 s", "1h 30m", "m5", "99999999999999d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(BadInput, match=r"is no duration|too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"),
     (86400, "1 d"), (273600, "3 d 4 h"), (-2, "-2.0 s")],
)  # fmt: skip
def test_durations_are_shown_short(seconds, shown):
    assert shown_duration(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512M", 512 * 1024**2), ("2g", 2 * 1024**3), ("1 KiB", 1024), ("100", 100), ("1TB", 1024**4)],
)
def test_sizes_are_read(text, size_bytes):
    assert parse_size(text) == size_bytes
    assert parse_size(shown_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "-1M", "1.5G", "M", "12X", "１２M"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(BadInput, match="is no size"):
        parse_size(text)
