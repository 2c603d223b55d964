import time
from pathlib import Path

import pytest

from relaunch.errors import Failed
from relaunch.shell import Secret, run, shown


async def test_output_and_status_come_back() -> None:
    done = await run("sh", "-c", "cat; echo err >&2; exit 3", input="in", check=False)

    assert (done.status, done.stdout, done.stderr) == (3, "in", "err\n")


async def test_a_failure_carries_the_command_and_its_last_lines() -> None:
    with pytest.raises(Failed, match="exit status 4: sh -c") as failure:
        await run("sh", "-c", "seq 100 >&2; exit 4")

    assert failure.value.hint.splitlines() == [str(number) for number in range(89, 101)]


async def test_a_secret_is_handed_over_and_never_shown() -> None:
    secret = Secret("hunter2")

    assert (await run("echo", secret)).stdout == "hunter2\n"
    with pytest.raises(Failed) as failure:
        await run("sh", "-c", 'echo "no such $0" >&2; exit 1', secret)
    assert "hunter2" not in str(failure.value) + repr(secret) + f"{secret}" + shown(["a", secret])
    assert "no such •••" in failure.value.hint


async def test_a_command_that_takes_too_long_is_killed_with_all_it_started() -> None:
    started = time.monotonic()

    with pytest.raises(Failed, match=r"did not end within 0\.2 s"):
        await run("sh", "-c", "sleep 30 & sleep 30", timeout_seconds=0.2)

    assert time.monotonic() - started < 5


async def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(Failed, match="no-such-program is not installed"):
        await run("no-such-program")


async def test_a_command_that_may_not_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")

    with pytest.raises(Failed, match="program may not be run"):
        await run("program", environment={"PATH": str(tmp_path)})


async def test_a_command_that_is_no_program_says_so(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("echo no first line\n")
    (tmp_path / "program").chmod(0o755)

    with pytest.raises(Failed, match="program cannot be started: Exec format error"):
        await run(tmp_path / "program")


async def test_a_folder_of_the_path_that_cannot_be_read_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*words: str, **how: object) -> None:
        raise PermissionError(13, "Permission denied", words[0])

    monkeypatch.setattr("asyncio.create_subprocess_exec", refused)  # root, who may run the tests, may read every folder

    with pytest.raises(Failed, match="no-such-program is not installed"):
        await run("no-such-program")
