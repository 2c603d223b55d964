from __future__ import annotations

from relaunch.databases import rules_page
from relaunch.databases.group import Mode, Step


def test_the_page_says_what_the_code_does():
    assert rules_page.PAGE.read_text() == rules_page.page(), "run python -m relaunch.databases.rules_page"
    assert rules_page.BEGIN in rules_page.PAGE.read_text()


def test_each_mode_and_each_step_is_explained():
    by_hand = rules_page.PAGE.read_text().partition(rules_page.BEGIN)[0]
    for word in (*Mode, *Step):
        assert f"`{word}`" in by_hand, word
