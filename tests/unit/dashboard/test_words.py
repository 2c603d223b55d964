from __future__ import annotations

import re
from pathlib import Path

import pytest

from relaunch.dashboard import rendering
from relaunch.dashboard.words import exact_span, plain_output, size, span, subject_path
from relaunch.servers.lifecycle import State


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (600, "10 min"), (3660, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_spans_have_one_or_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_short_spans_and_sizes_are_exact_where_it_matters() -> None:
    assert [exact_span(s) for s in (0.004, 12.34, 75)] == ["0.00 s", "12.3 s", "1 min 15 s"]
    assert [size(n) for n in (0, 1023, 5120, 102400, 104857600, 3 << 30)] == [
        "0 bytes", "1023 bytes", "5.0 KB", "100 KB", "100 MB", "3.0 GB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[1;32mok\x1b[0m\n", "ok\n"),
        ("\x1b]0;title\x07text", "text"),
        (" 10%\r 50%\r100%\ndone\r\n", "100%\ndone\n"),
        ("a\x00b\x08", "a�b�"),
        ("tab\tstays\n", "tab\tstays\n"),
    ],
)
def test_output_is_shown_without_terminal_codes(written: str, shown: str) -> None:
    assert plain_output(written, last=1000) == shown


def test_long_output_is_cut_at_a_line() -> None:
    assert plain_output("first line\nsecond\nthird\n", last=10) == "third\n"
    assert plain_output("x" * 50, last=10) == "x" * 10


@pytest.mark.parametrize(
    ("subject", "path"),
    [
        ("server:shop/front1", "/servers/shop/front1"),
        ("server:shop/a b", "/servers/shop/a%20b"),
        ("server:shop", None),
        ("deployment:shop", "/#deployment-shop"),
        ("image:abc", "/images"),
        ("task:t/1", None),
        ("token:admin", None),
        ("", None),
    ],
)
def test_a_subject_leads_to_its_page(subject: str, path: str | None) -> None:
    assert subject_path(subject) == path


def test_every_state_has_its_colour_but_those_at_rest() -> None:
    css = (Path(rendering.__file__).parent / "static" / "look.css").read_text()

    coloured = set(re.findall(r"\.state-([a-z_]+)", css))

    assert {str(state) for state in State} - coloured == {"inactive", "pending", "terminated"}


def _luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
    channels = [int(full[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_stands_out_on_every_ground(scheme: int) -> None:
    """Contrast ≥ 4.5 : 1, as WCAG 2.2 AA asks for."""
    css = (Path(rendering.__file__).parent / "static" / "look.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", block))
    pairs = [
        (text, ground)
        for text in ("ink", "quiet", "link", "good", "busy", "wait", "bad", "warn", "ending", "accent")
        for ground in ("ground", "card", "raised", "output", "row")
    ]
    pairs += [("accent-ink", "accent"), ("card", "bad"), ("ink", "bad-ground"), ("ink", "warn-ground")]

    weak = {}
    for text, ground in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
        contrast = (light + 0.05) / (dark + 0.05)
        if contrast < 4.5:
            weak[text, ground] = round(contrast, 2)

    assert weak == {}
