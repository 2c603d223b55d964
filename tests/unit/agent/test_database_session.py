import time
from pathlib import Path

import pytest

from relaunch.errors import Unavailable
from relaunch_agent.database.session import LocalSession

TRIES, MOST_SECONDS_A_TRY = 20, 0.01  # of the processor; it was 0.035 with the system's certificates read each time


def test_trying_to_reach_a_server_that_is_down_costs_next_to_nothing(tmp_path: Path) -> None:
    began = time.process_time()

    for _ in range(TRIES):
        with pytest.raises(Unavailable):
            LocalSession(str(tmp_path / "no.sock"))

    assert (time.process_time() - began) / TRIES < MOST_SECONDS_A_TRY
