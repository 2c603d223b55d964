#!/usr/bin/env python3
"""How long instances take from the launch until their user data runs: one at a time, and twenty at once.

usage: sudo bench/boot.py [--count N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from ipaddress import IPv4Network
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from relaunch.clouds.cloud import ImageId, LaunchRequest  # noqa: E402
from relaunch.clouds.local.cloud import LocalCloud  # noqa: E402

USER_DATA = "#!/bin/sh\ndate +%s.%N > /root/ran.new\nmv /root/ran.new /root/ran\n"
PATIENCE_SECONDS = 120


async def launched_until_user_data(cloud: LocalCloud, folder: Path, image: ImageId, count: int) -> float:
    """Seconds from the first launch call until the last of `count` runs its user data, by the shared clock."""
    started = time.time()
    instances = await asyncio.gather(
        *(
            cloud.launch(
                LaunchRequest(client_token=f"{started}-{n}", name=f"n{n}", image=image, zone="a", user_data=USER_DATA)
            )
            for n in range(count)
        )
    )
    marks = [folder / "instances" / instance.id / "upper/root/ran" for instance in instances]
    while not all(mark.exists() for mark in marks):
        if time.time() - started > PATIENCE_SECONDS:
            raise SystemExit(f"not all of {count} ran their user data within {PATIENCE_SECONDS} s")
        await asyncio.sleep(0.02)
    took = max(float(mark.read_text()) for mark in marks) - started
    await asyncio.gather(*(cloud.terminate(instance.id) for instance in instances))
    return took


async def measure(count: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="relaunch-bench-") as name:
        folder = Path(name) / "cloud"
        cloud = LocalCloud(folder, network=IPv4Network("198.19.15.0/24"), bridge="rlboot0", recipes=ROOT / "images")
        await cloud.open()
        try:
            started = time.time()
            image = (await cloud.base_image("trixie", lambda line: None)).id
            built = time.time() - started
            ones = [await launched_until_user_data(cloud, folder, image, 1) for _ in range(rounds)]
            many = [await launched_until_user_data(cloud, folder, image, count) for _ in range(max(1, rounds // 3))]
        finally:
            await cloud.down(purge=True)
    return {
        "image_build_seconds": round(built, 1),
        "one_median_seconds": round(statistics.median(ones), 2),
        "one_worst_seconds": round(max(ones), 2),
        f"{count}_at_once_median_seconds": round(statistics.median(many), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="JSON alone")
    asked = parser.parse_args()
    figures = asyncio.run(measure(asked.count, asked.rounds))
    print(json.dumps(figures))
    if not asked.json:
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):32} {value:8}")


if __name__ == "__main__":
    main()
