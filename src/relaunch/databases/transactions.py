"""Transactions of clients that have written and have not ended: asked of InnoDB, in words that both dialects have.

Shipped in the agent: standard library only, Python 3.9. Not information_schema.INNODB_TRX: it keeps what it says for
0.1 s after each question, so that who asks more often never hears anything new.
"""

from __future__ import annotations

import re
import time
from typing import Dict

from relaunch.databases.dialect import Session

ASK_AGAIN_SECONDS = 0.005
THREAD = re.compile(r"(?:MySQL|MariaDB) thread id (\d+)")


def let_end(session: Session, seconds: float) -> bool:
    """Wait until those open now have ended, whichever begin meanwhile; whether all have within the time."""
    end = time.monotonic() + seconds
    open_ = written(_status(session))
    while open_:
        if time.monotonic() >= end:
            return False
        time.sleep(ASK_AGAIN_SECONDS)
        now = written(_status(session))
        open_ = {thread: number for thread, number in open_.items() if now.get(thread) == number}
    return True


def written(status: str) -> Dict[int, str]:
    """By the client's thread: the number of its transaction. `status`: what SHOW ENGINE INNODB STATUS says."""
    found: Dict[int, str] = {}
    for block in status.split("---TRANSACTION ")[1:]:
        head, _, rest = block.partition("\n")
        thread = THREAD.search(rest)
        if "ACTIVE" in head and "undo log entries" in rest and thread:
            found[int(thread[1])] = head.split(",")[0].strip()
    return found


def _status(session: Session) -> str:
    return str(session.rows("SHOW ENGINE INNODB STATUS")[0]["Status"])
