from __future__ import annotations

from relaunch_agent.hosts import BEGIN, END, with_block

OTHERS = "127.0.0.1 localhost\n# mine\n10.0.0.1 x\n"


def test_the_block_comes_changes_and_goes() -> None:
    one = with_block(OTHERS, {"b.test": "127.0.1.2", "a.test": "127.0.1.1"})
    assert one == f"{OTHERS}{BEGIN}\n127.0.1.1 a.test\n127.0.1.2 b.test\n{END}\n"
    assert with_block(one, {"b.test": "127.0.1.2", "a.test": "127.0.1.1"}) == one
    assert with_block(one, {"a.test": "127.0.1.9"}) == f"{OTHERS}{BEGIN}\n127.0.1.9 a.test\n{END}\n"
    assert with_block(one, {}) == OTHERS
