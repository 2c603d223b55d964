"""What happened when in one run of bench/failover.py: the controller's decisions, the agents' logs, the disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime

import rehearsal
from rehearsal import STATE

from relaunch.cli.client import Client

DISK_SECONDS = 0.02  # between two looks at the disk


class Traced:
    def __init__(self, client: Client, names: Sequence[str]) -> None:
        self._client = client
        self._agents = {name: rehearsal.agent_of(client, name) for name in names}
        self._synced: list[tuple[float, float]] = []  # when it began, how long it took
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sync)

    def __enter__(self) -> Traced:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def tell(self, moments: Sequence[float], began: float, wall: float) -> None:
        """Seconds from the failure on; `moments` are those of the acknowledged writes."""
        gap = max(itertools.pairwise(moments), key=lambda pair: pair[1] - pair[0])
        lines = [(gap[0] - began, "the last write before the outage"), (gap[1] - began, "the first write after it")]
        lines += [*self._decided(wall), *self._logged(wall)]
        for moment, what in sorted(lines):
            print(f"    {moment:+7.3f} s  {what}", file=sys.stderr)
        at, took = max(self._synced, key=lambda each: each[1])
        during = [took for at, took in self._synced if gap[0] < at + took and at < gap[1]]
        print(
            f"    the disk: {max(during, default=0.0):.3f} s for the longest sync in the outage,"
            f" {took:.3f} s (at {at - began:+.3f} s) in the run, {statistics.median(t for _, t in self._synced):.4f} s"
            f" median; load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
        )

    def _sync(self) -> None:
        """What any program on this machine has to wait for its data to be on the disk."""
        with (STATE / "disk").open("wb") as file:
            while not self._over.wait(DISK_SECONDS):
                began = time.monotonic()
                file.seek(0)
                file.write(os.urandom(4096))
                file.flush()
                os.fsync(file.fileno())
                self._synced.append((began, time.monotonic() - began))

    def _decided(self, wall: float) -> Iterator[tuple[float, str]]:
        for entry in self._client.get("/audit", subject="database:shop", limit=40)["entries"]:
            moment = datetime.fromisoformat(entry["at"]).timestamp() - wall
            if moment > -1:
                detail = entry["detail"]
                why = detail.get("why") or "; ".join(f"{key}: {value}" for key, value in detail.items())
                yield moment, f"{entry['action']} ({detail.get('rule', '')}) {why}"

    def _logged(self, wall: float) -> Iterator[tuple[float, str]]:
        words = ["journalctl", "-q", "-u", "relaunch-agent", "-o", "short-unix", f"--since=@{int(wall) - 1}"]
        for name, agent in self._agents.items():
            inside = ["nsenter", f"--target={agent}", "--mount", "--root", "--wd=/", *words]
            with contextlib.suppress(subprocess.SubprocessError):  # it may be gone by now
                done = subprocess.run(inside, capture_output=True, text=True, timeout=10, check=True)
                for line in done.stdout.splitlines():
                    moment, _, text = line.partition(" ")
                    if "database:" in text:
                        yield float(moment) - wall, f"{name} {text.partition('database: ')[2]}"
