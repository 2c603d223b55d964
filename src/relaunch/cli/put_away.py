"""Everything of a controller and its local cloud stopped, as `./demo --stop` does it.

Nothing but Python's own modules: it must work when the virtual environment is gone, and the network too.
python3 -m relaunch.cli.put_away --state DIR --network NET --bridge NAME [--purge]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from ipaddress import IPv4Network
from pathlib import Path

import relaunch
from relaunch.cli.process import ControllerProcess, need_root
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.errors import RelaunchError

RECIPES = Path(relaunch.__file__).parents[2] / "images"


def put_away(state: Path, network: IPv4Network, bridge: str, *, purge: bool) -> None:
    """Controller, instances, bridge, rules and mounts gone; with purge all files but the environment we may run in."""
    if ControllerProcess(state=state).stop():
        print("· the controller is stopped")
    cloud = LocalCloud(state / "local-cloud", network=network, bridge=bridge, recipes=RECIPES)
    asyncio.run(cloud.down(purge=purge))
    print("· servers are stopped" + ("" if purge else "; their disks are kept"))
    if purge:
        for entry in state.iterdir():
            if entry.name == "venv":
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description="Stop a controller and everything its local cloud has on this host.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--network", type=IPv4Network, required=True)
    parser.add_argument("--bridge", required=True)
    parser.add_argument("--purge", action="store_true")
    asked = parser.parse_args()
    try:
        need_root("to stop servers")
        put_away(asked.state, asked.network, asked.bridge, purge=asked.purge)
    except RelaunchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
