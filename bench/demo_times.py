"""How long `./demo` takes: the first time, again while it runs, and again after `--stop`.

    sudo python bench/demo_times.py [--app redmine]

On a state folder of its own in /var/tmp/relaunch-bench-demo, removed at the end. "First" means: no virtual
environment, no image, no baked layer; Debian packages that the machine already has are not installed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

from rehearsal import PROJECT, Figure, report

STATE = Path("/var/tmp/relaunch-bench-demo")
SETTINGS = """network = "198.19.80.0/20"
bridge = "rlbench1"
api_port = 7643
bus_port = 7622
"""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--app", default="redmine")
    asked = words.parse_args()
    demo("--stop", "--purge")
    STATE.mkdir(parents=True, exist_ok=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    try:
        figures = [
            Figure(name="first ./demo", unit="s", values=[demo("--app", asked.app)], limit=360),
            Figure(name="again while it runs", unit="s", values=[demo("--app", asked.app)], limit=10),
        ]
        stop = demo("--stop")
        figures.append(Figure(name="./demo --stop", unit="s", values=[stop]))
        figures.append(Figure(name="again after --stop", unit="s", values=[demo("--app", asked.app)], limit=60))
    finally:
        demo("--stop", "--purge")
    report(f"./demo with {asked.app}", figures)


def demo(*words: str) -> float:
    """Seconds that ./demo with these words took; CalledProcessError with its output shown when it failed."""
    began = time.monotonic()
    done = subprocess.run(
        [str(PROJECT / "demo"), *words],
        env={**os.environ, "RELAUNCH_STATE": str(STATE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    if done.returncode:
        print(done.stdout)
        done.check_returncode()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
