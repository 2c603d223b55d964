"""Whether a history can be restored to a moment in time, and from which backup: pure."""

from __future__ import annotations

from datetime import UTC, datetime

from relaunch.databases.backups import Backup, Known, whole
from relaunch.errors import BadInput, Conflict

TIME = "time:"


def refuse_moment(known: Known, to: str, backup: str, now: datetime) -> None:
    """Raises why not. `to` as people say it; `backup`: the one to begin with, or latest."""
    if not to.startswith(TIME):
        return
    wanted = _moment(to.removeprefix(TIME))
    if wanted > now:
        raise BadInput(
            f"{_shown(wanted)} is still to come: it is {_shown(now)}",
            hint="times are in UTC; --to newest takes all there is",
        )
    fit = whole(known.backups)
    begin = [each for each in known.backups if each.id in fit and backup in ("latest", each.id)]
    first: Backup | None = min(begin, key=lambda each: each.ended, default=None)
    if first is not None and first.ended >= wanted:
        what = "the oldest backup of this history" if backup == "latest" else f"the backup {backup}"
        raise Conflict(f"{what} ended at {_shown(first.ended)}: it holds no moment before", hint="times are in UTC")
    if known.shipping is None or known.shipping.at < wanted:
        up_to = f"up to {_shown(known.shipping.at)}" if known.shipping else "not at all"
        raise Conflict(
            f"the binary log of this history is in the store {up_to}: what was at {_shown(wanted)} is not known",
            hint="--to newest takes all of it; of a group that runs, ask again in a minute",
        )


def begins_with(known: Known, to: str) -> str:
    """The newest backup that can be restored and is of before, as the binary log holds what a later one that is damaged
    has more; latest where there is none to be replayed, or only its positions say what was before."""
    if to != "newest" and not to.startswith(TIME):
        return "latest"
    before = datetime.max.replace(tzinfo=UTC) if to == "newest" else _moment(to.removeprefix(TIME))
    fit = whole(known.backups)
    fits = [each for each in known.backups if each.ended < before and each.id in fit]
    return max(fits, key=lambda each: (each.ended, each.id)).id if fits else "latest"


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise BadInput(f"{text!r} is no moment", hint="as 2026-11-22 18:59:59, in UTC") from None


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
