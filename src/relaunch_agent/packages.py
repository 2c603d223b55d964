"""Debian packages a run needs: what is installed already costs one look."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from typing import Dict, List, Sequence

NAMED_CHARACTERS = 1000  # of the packages in what a failure says; the output has them all

INSTALL = """
set -eu
# Someone else (unattended-upgrades, a person) may hold the lock for a while.
apt() { apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \\
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"; }
echo "installing packages: $*"
dpkg --configure -a
if ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 && apt install --no-install-recommends "$@"; then exit 0; fi
apt update
apt install --no-install-recommends "$@"
"""


async def not_installed(packages: Sequence[str]) -> List[str]:
    """Those that dpkg does not know as installed; all of them where there is no dpkg."""
    if not packages or not shutil.which("dpkg-query"):
        return list(packages)
    asked = await asyncio.create_subprocess_exec(
        "dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n", *packages,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    said, _ = await asked.communicate()
    lines = [line.split(" ") for line in said.decode().splitlines()]
    installed = {words[1] for words in lines if len(words) > 1 and words[0] == "installed"}
    return [name for name in packages if name.partition(":")[0] not in installed]


def installation(packages: Sequence[str]) -> Dict[str, object]:
    """The command the runner carries out before the first script."""
    named = textwrap.shorten(", ".join(packages), NAMED_CHARACTERS, break_on_hyphens=False, placeholder=" …")
    return {"what": f"installing {named}", "argv": ["/bin/sh", "-c", INSTALL, "packages", *packages]}
