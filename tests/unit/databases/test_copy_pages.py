"""Copies of folders page by page: any chain of them gives the folder as it was, and what does not fit is refused."""

from __future__ import annotations

import importlib.util
import io
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[3] / "templates/scripts/attachments/copy_pages.py"
BY_HAND = Path(__file__).parents[3] / "docs/do/restore-by-hand.md"
PAGE = 16384
NAMES = ("ibdata1", "shop/orders.ibd", "shop/lines.ibd", "shop", "undo/a b", "-x", "ü\udcff", "line\nbreak")


def loaded_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("copy_pages", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = loaded_script()

edits = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(NAMES), st.integers(0, 40 * PAGE), st.integers(0, 3)),
    st.tuples(st.just("pages"), st.sampled_from(NAMES), st.integers(0, 40 * PAGE), st.integers(1, 3 * PAGE)),
    st.tuples(st.just("size"), st.sampled_from(NAMES), st.integers(0, 44 * PAGE), st.just(0)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just(0), st.just(0)),
    st.tuples(st.just("folder"), st.sampled_from(NAMES), st.just(0), st.just(0)),
    st.tuples(st.just("link"), st.sampled_from(NAMES), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("mode"), st.sampled_from(NAMES), st.sampled_from((0o600, 0o640, 0o700)), st.just(0)),
)


def edit(folder: Path, what: str, name: str, number: int, more: int) -> None:
    """Whatever does not apply is left."""
    path = folder / name
    if any(not above.is_dir() or above.is_symlink() for above in path.parents if folder in above.parents):
        if what in ("file", "folder", "link"):
            for above in reversed(path.parents):
                if folder in above.parents and not above.is_dir():
                    remove(above)
                    above.mkdir()
        else:
            return
    plain_file = path.is_file() and not path.is_symlink()
    if what == "file":
        remove(path)
        path.write_bytes(random.Random(more).randbytes(number))
    elif what == "pages" and plain_file:
        with path.open("r+b") as file:
            file.seek(min(number, path.stat().st_size))
            file.write(random.Random(more).randbytes(more))
    elif what == "size" and plain_file:
        os.truncate(path, number)
    elif what == "remove":
        remove(path)
    elif what == "folder":
        remove(path)
        path.mkdir()
    elif what == "link":
        remove(path)
        path.symlink_to(("nowhere", "ibdata1")[number])
    elif what == "mode" and plain_file:
        path.chmod(number)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name.split("/")[0] == ".copy-pages":
            continue
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", mode)
        else:
            found[name] = ("file", mode, status.st_uid, status.st_gid, path.read_bytes())
    return found


@pytest.fixture
def room() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


def saved(folder: Path, new_map: Path, old_map: Path | None = None, excluded: tuple[str, ...] = ()) -> bytes:
    out = io.BytesIO()
    script.save(str(folder), out, new_map=str(new_map), old_map=str(old_map) if old_map else None, excluded=excluded)
    return out.getvalue()


def load(folder: Path, stream: bytes) -> None:
    script.load(str(folder), io.BytesIO(stream))


def filled(folder: Path, pages: int = 64) -> Path:
    (folder / "shop").mkdir(parents=True)
    (folder / "shop/orders.ibd").write_bytes(random.Random(1).randbytes(pages * PAGE))
    (folder / "my.cnf").write_text("[mysqld]\n")
    return folder


def edit_page(path: Path, page: int, with_what: bytes = b"changed") -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(with_what)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(edits, max_size=6), min_size=1, max_size=4))
def test_any_chain_of_copies_gives_the_folder_as_it_is(story: list[list[tuple[str, str, int, int]]]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        source, copy, room = Path(name) / "source", Path(name) / "copy", Path(name)
        source.mkdir()
        old_map = None
        for number, stage in enumerate(story):
            for each in stage:
                edit(source, *each)
            stream = saved(source, room / f"{number}.map", old_map)
            old_map = room / f"{number}.map"

            load(copy, stream)
            assert seen(copy) == seen(source)
            load(copy, stream)
            assert seen(copy) == seen(source)


def test_a_full_copy_is_a_plain_tar(room: Path) -> None:
    source = filled(room / "source")
    (room / "copy").mkdir()

    subprocess.run(["tar", "-x", "-C", room / "copy"], input=saved(source, room / "map"), check=True)

    assert seen(room / "copy") == seen(source)


def test_of_a_large_file_only_the_changed_pages_are_sent(room: Path) -> None:
    source = filled(room / "source", pages=1000)
    saved(source, room / "1.map")
    for page in (3, 4, 700):
        edit_page(source / "shop/orders.ibd", page)

    stream = saved(source, room / "2.map", room / "1.map")

    with tarfile.open(fileobj=io.BytesIO(stream)) as members:
        sizes = {each.name: each.size for each in members if each.name.endswith(".pages")}
        extents = [each for each in members.getnames() if each.endswith(".extents")]
        told = members.extractfile(extents[0])
        assert told is not None and told.read() == f"shop/orders.ibd\n{1000 * PAGE}\n3 2\n700 1\n".encode()
    assert list(sizes.values()) == [3 * PAGE]
    assert len(stream) < 4 * PAGE + 20 * 512


@pytest.mark.parametrize("size", [30 * PAGE, 30 * PAGE + 77, 100 * PAGE, 100 * PAGE + 5])
def test_what_became_shorter_or_longer_is_right(room: Path, size: int) -> None:
    source = filled(room / "source")
    load(room / "copy", saved(source, room / "1.map"))
    os.truncate(source / "shop/orders.ibd", size)

    load(room / "copy", saved(source, room / "2.map", room / "1.map"))

    assert seen(room / "copy") == seen(source)


def test_holes_stay_holes(room: Path) -> None:
    source = room / "source"
    source.mkdir()
    with (source / "sparse.ibd").open("wb") as file:
        file.truncate(4096 * PAGE)
        file.seek(100 * PAGE)
        file.write(b"x" * 5000)

    load(room / "copy", saved(source, room / "1.map"))

    assert seen(room / "copy") == seen(source)
    assert (room / "copy/sparse.ibd").stat().st_blocks * 512 < 10 * PAGE


def test_a_copy_over_another_parent_is_refused_and_nothing_is_touched(room: Path) -> None:
    source = filled(room / "source")
    load(room / "copy", saved(source, room / "1.map"))
    edit_page(source / "shop/orders.ibd", 5)
    saved(source, room / "2.map", room / "1.map")
    edit_page(source / "shop/orders.ibd", 6)
    third = saved(source, room / "3.map", room / "2.map")
    before = seen(room / "copy")

    with pytest.raises(script.Fault, match="a wrong or missing link"):
        load(room / "copy", third)
    with pytest.raises(script.Fault, match="a wrong or missing link"):
        load(room / "empty", third)

    assert seen(room / "copy") == before


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_load_that_broke_off_is_seen_and_goes_on_with_the_same_stream_only(room: Path, share: float) -> None:
    source = filled(room / "source")
    load(room / "copy", saved(source, room / "1.map"))
    shutil.copytree(source, room / "other")
    for page in range(0, 60, 2):
        edit_page(source / "shop/orders.ibd", page)
        edit_page(room / "other/shop/orders.ibd", page + 1)
    stream = saved(source, room / "2.map", room / "1.map")
    another = saved(room / "other", room / "3.map", room / "1.map")

    with pytest.raises(script.Fault, match=r"too early|cannot be loaded"):
        load(room / "copy", stream[: int(len(stream) * share)])

    if (room / "copy/.copy-pages/loading").exists():
        with pytest.raises(script.Fault, match="half way"):
            load(room / "copy", another)
    load(room / "copy", stream)
    assert seen(room / "copy") == seen(source)
    assert not (room / "copy/.copy-pages/loading").exists()


def test_a_full_load_that_broke_off_begins_anew(room: Path) -> None:
    source = filled(room / "source")
    stream = saved(source, room / "1.map")
    with pytest.raises(script.Fault):
        load(room / "copy", stream[: len(stream) // 2])
    (source / "my.cnf").unlink()

    load(room / "copy", saved(source, room / "2.map"))

    assert seen(room / "copy") == seen(source)


def test_everything_is_not_loaded_over_what_is_there(room: Path) -> None:
    source = filled(room / "source")
    stream = saved(source, room / "1.map")
    load(room / "copy", saved(source, room / "2.map"))
    filled(room / "mine")

    with pytest.raises(script.Fault, match="holds a copy already"):
        load(room / "copy", stream)
    with pytest.raises(script.Fault, match="not empty"):
        load(room / "mine", stream)

    assert seen(room / "mine") == seen(source)


def test_a_map_that_is_not_whole_is_refused(room: Path) -> None:
    source = filled(room / "source")
    saved(source, room / "1.map")
    whole = (room / "1.map").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 60):
        (room / "1.map").write_bytes(whole[:size])

        with pytest.raises(script.Fault, match="make a full copy"):
            saved(source, room / "2.map", room / "1.map")

    assert not (room / "2.map").exists()


def test_what_changes_while_it_is_read_is_said(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = filled(room / "source")
    saved(source, room / "1.map")
    edit_page(source / "shop/orders.ibd", 5)
    plain = script.changed_extents

    def meanwhile(new: bytes, old: bytes) -> object:
        edit_page(source / "shop/orders.ibd", 5, b"again")
        return plain(new, old)

    monkeypatch.setattr(script, "changed_extents", meanwhile)
    with pytest.raises(script.Fault, match="changes while it is read"):
        saved(source, room / "2.map", room / "1.map")


def test_a_name_out_of_the_folder_is_refused(room: Path) -> None:
    source = filled(room / "source")
    stream = saved(source, room / "1.map").replace(b"my.cnf\0\0\0", b"../../a\0\0", 1)
    about = stream.index(b"../../a")
    header = bytearray(stream[about : about + 512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    stream = stream[:about] + bytes(header) + stream[about + 512 :]

    with pytest.raises(script.Fault, match="may not have"):
        load(room / "copy", stream)


@pytest.mark.parametrize("what", ["file", "folder", "pages", "gone"])
def test_nothing_is_written_by_way_of_a_link(room: Path, what: str) -> None:
    """As nothing but a stream that somebody else has made would have it."""
    outside = room / "outside"
    (outside / "kept").mkdir(parents=True)
    outside.joinpath("kept").chmod(0o700)
    (outside / "file").write_bytes(b"ours")
    tar = script.Tar(out := io.BytesIO())
    tar.note("stream", b"1\n")
    tar.note("sparse", b"")
    for name, to in (("kept", outside / "kept"), ("file", outside / "file")):
        tar.begin(name, script.Entry("link", mode=0o777, link=str(to)), 0)
    if what == "file":
        tar.begin("kept/new", script.Entry("file", mode=0o644), 6)
        tar.data(b"theirs")
        tar.end_member()
    elif what == "folder":
        tar.begin("kept", script.Entry("folder", mode=0o777), 0)
    elif what == "pages":
        tar.note("0.extents", b"file\n6\n0 1\n")
        tar.begin(".copy-pages/0.pages", script.Entry("file", mode=0o644), 6)
        tar.data(b"theirs")
        tar.end_member()
    if what == "gone":
        tar.note("id", b"1\n")
        tar.end()
        load(room / "copy", out.getvalue())
        tar = script.Tar(out := io.BytesIO())
        for note, said in (
            ("stream", b"2\n"),
            ("wants", b"1\n"),
            ("gone", b"kept/../file\0kept/it\0"),
            ("sparse", b""),
        ):
            tar.note(note, said.replace(b"kept/../file\0", b""))
    (outside / "kept/it").write_text("ours")
    tar.note("id", b"2\n")
    tar.end()

    with pytest.raises(script.Fault, match="may not have"):
        load(room / "copy", out.getvalue())

    assert (outside / "file").read_bytes() == b"ours"
    assert [each.name for each in (outside / "kept").iterdir()] == ["it"]
    assert stat.S_IMODE((outside / "kept").stat().st_mode) == 0o700


def test_what_is_excluded_is_left_out(room: Path) -> None:
    source = filled(room / "source")
    (source / "binlog.000001").write_bytes(b"x" * 100)

    load(room / "copy", saved(source, room / "1.map", excluded=("binlog.*",)))

    assert set(seen(source)) - set(seen(room / "copy")) == {"binlog.000001"}


def test_a_schema_is_never_left_out_whatever_it_is_called(room: Path) -> None:
    source = filled(room / "source")
    for schema in ("relaychat", "ibtmp1", "relay@002dbase"):
        (source / schema).mkdir()
        for name in ("m.ibd", "relay.000001", "binlog.000002"):  # a table may be called like a log
            (source / schema / name).write_bytes(schema.encode() * 100)
    (source / "#innodb_temp").mkdir()
    (source / "#innodb_temp/temp_1.ibt").write_bytes(b"x")
    (source / "relay-copy.000001").write_bytes(b"x")

    load(room / "copy", saved(source, room / "1.map", excluded=("relay*", "ibtmp1", "binlog.*", "#innodb_temp")))

    assert set(seen(source)) - set(seen(room / "copy")) == {
        "#innodb_temp", "#innodb_temp/temp_1.ibt", "relay-copy.000001",
    }  # fmt: skip


def test_the_program_itself_and_the_lines_of_the_manual_put_a_chain_together(room: Path) -> None:
    source = filled(room / "source")
    (source / "gone").write_text("x")
    (source / "-odd name").write_text("x")

    def save(*options: object) -> bytes:
        return subprocess.run([SCRIPT, "save", source, *options], stdout=subprocess.PIPE, check=True).stdout

    full = save("--map", room / "1.map")
    (source / "gone").unlink()
    (source / "-odd name").unlink()
    edit_page(source / "shop/orders.ibd", 7)
    edit_page(source / "shop/orders.ibd", 64, b"longer")
    (source / "my.cnf").write_text("[mysqld]\nport = 3307\n")
    (source / "shop/orders.ibd").chmod(0o600)
    increment = save("--map", room / "2.map", "--since", room / "1.map")
    subprocess.run([SCRIPT, "load", room / "copy"], input=full, check=True)
    subprocess.run([SCRIPT, "load", room / "copy"], input=increment, check=True)
    lines = re.search(r"^lay_over\(\) \{.*?^\}$", BY_HAND.read_text(), re.DOTALL | re.MULTILINE)
    assert lines is not None

    (room / "hand").mkdir()
    subprocess.run(["tar", "-x", "-C", room / "hand"], input=full, check=True)
    (room / "part").mkdir()
    subprocess.run(["tar", "-x", "-C", room / "part"], input=increment, check=True)
    by_hand = f'set -e\n{lines.group(0)}\nlay_over "{room}/part" "{room}/hand"'
    subprocess.run(["bash", "-c", by_hand], check=True)

    assert seen(room / "copy") == seen(source)
    assert seen(room / "hand") == seen(source)
    again = subprocess.run(["bash", "-c", by_hand], check=False, capture_output=True, text=True)
    assert again.returncode != 0
