from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from relaunch_agent.run_log import LogReader, LogWriter, ring_of


@given(st.lists(st.integers(0, 70), max_size=12), st.integers(0, 400), st.integers(0, 400))
def test_what_is_read_is_what_was_written(tmp_path_factory, sizes: list[int], a: int, b: int) -> None:  # type: ignore[no-untyped-def]
    log = Path(tmp_path_factory.mktemp("log")) / "0.log"
    writer = LogWriter(log, [], head_bytes=100, ring_bytes=50)
    text = bytes(33 + n % 90 for n in range(sum(sizes)))
    at = 0
    for size in sizes:
        writer.write(text[at : at + size])
        at += size
    reader = LogReader(log, head_bytes=100, ring_bytes=50)
    assert reader.total() == len(text)
    start, end = sorted((min(a, len(text)), min(b, len(text))))
    got = reader.read(start, end)
    assert text[:end].endswith(got)
    if end <= 100 or start >= len(text) - 50:
        assert got == text[start:end]


def test_folding_leaves_one_file_that_says_what_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    writer = LogWriter(log, [], head_bytes=10, ring_bytes=4)
    writer.write(b"0123456789abcdefgh")
    LogReader(log, head_bytes=10, ring_bytes=4).fold()
    assert log.read_text() == "0123456789\n[relaunch: 4 bytes left out here]\nefgh"
    assert not ring_of(log).exists()


def test_binary_becomes_valid_text_and_secrets_are_masked(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log", ["hidden"])
    writer.write(b"\xe2\x82")
    writer.write(b"\xac hid")
    writer.write(b"den \xff", last=True)
    assert (tmp_path / "0.log").read_text() == "€ ••• \ufffd"
