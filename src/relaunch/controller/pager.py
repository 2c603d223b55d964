"""Alerts reach a person by a command of the operator's: curl to a webhook, sendmail, whatever pages them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from relaunch.clock import Clock
from relaunch.errors import Failed
from relaunch.shell import run

log = logging.getLogger("relaunch.alerts")

COMMAND_SECONDS = 30.0


class Pager:
    """Without a command an alert is in the log only."""

    def __init__(self, command: Sequence[str], clock: Clock) -> None:
        self._command = tuple(command)
        self._clock = clock

    async def tell(self, subject: str, state: str, reasons: tuple[str, ...]) -> None:
        """state: alert | over. The command gets {subject, state, reasons, at} as JSON on its standard input."""
        (log.warning if state == "alert" else log.info)("%s: %s %s", state, subject, "; ".join(reasons))
        if not self._command:
            return
        said = {"subject": subject, "state": state, "reasons": list(reasons), "at": self._clock.now().isoformat()}
        try:
            await run(*self._command, input=json.dumps(said) + "\n", timeout_seconds=COMMAND_SECONDS)
        except Failed as error:
            log.warning("the alert command failed: %s", error)
