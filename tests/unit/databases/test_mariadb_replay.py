"""What mariadb-binlog has decoded, made ready for a client: which lines are statements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "templates/scripts/attachments/mariadb_replay.py"
END = "/*!*/;\n"
NUMBER = "/*!100001 SET @@session.gtid_seq_no=7*/" + END


def replayed(text: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], input=text, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def test_a_statement_that_begins_with_a_comment_is_within_its_transaction() -> None:
    rows = "/* page:12 */ INSERT INTO t VALUES (1)" + END + "INSERT INTO t VALUES (2)" + END + "COMMIT\n" + END

    assert replayed(NUMBER + "START TRANSACTION\n" + END + rows) == NUMBER + "START TRANSACTION\n" + END + rows


def test_what_failed_in_part_may_begin_with_a_comment_and_nothing_after_it_may_fail_so() -> None:
    head = "#261129  7:00:00 server id 1  end_log_pos 9 \tQuery\tthread_id=1\texec_time=0\terror_code="

    assert replayed(f"{head}1396\n/* of */ DROP USER a, b{END}{head}0\nDROP USER c{END}") == (
        f"{head}1396\nBEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1396 BEGIN END; /* of */ DROP USER a, b; END\n{END}"
        f"{head}0\nDROP USER c{END}"
    )


@pytest.mark.parametrize("after", ["ROLLBACK" + END, "DELIMITER ;\n# End of log file\nROLLBACK /* added */;\n"])
def test_a_table_whose_rows_and_commit_a_crash_or_a_moment_cut_off_is_not_made(after: str) -> None:
    text = NUMBER + "START TRANSACTION\n" + END

    assert replayed(text + "CREATE TABLE `t` (\n  `i` int\n)\n" + END + after) == text + after
