import errno
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import disk, retrying, storage
from pipeline.objects import Blob
from pipeline.retrying import StorageError, UnansweredError
from pipeline.storage import Store, open_store
from tests.s3_server import S3Server


def test_an_object_comes_back_with_the_version_of_its_listing(root: str) -> None:
    store = open_store(f"{root}/in")
    store.write("a/ü b.bin", b"one")
    store.write("c.bin", b"three")
    listed = list(storage.list_entries(store.root))
    assert [(entry.uri, entry.size) for entry in listed] == [(store.uri("a/ü b.bin"), 3), (store.uri("c.bin"), 5)]
    for entry in listed:
        assert storage.read(entry.uri).version == entry.version
        assert storage.stat(entry.uri) == entry
    assert store.read("c.bin") == b"three"


def test_other_bytes_have_another_version(root: str) -> None:
    store = open_store(root)
    store.write("a", b"one")
    before = storage.stat(store.uri("a")).version
    store.write("a", b"other")
    assert storage.stat(store.uri("a")).version != before


def test_what_is_not_there(root: str) -> None:
    store = open_store(root)
    assert not store.exists("nothing")
    assert store.keys("nothing") == []
    with pytest.raises(FileNotFoundError):
        store.read("nothing")


def test_a_prefix_is_a_folder_not_a_beginning_of_a_name(root: str) -> None:
    store = open_store(root)
    store.write("in/a", b"")
    store.write("in2/b", b"")
    assert store.keys("in") == ["in/a"]


def test_a_listing_can_be_of_names_with_a_beginning(root: str) -> None:
    store = open_store(root)
    for key in ("in/ab1/ax", "in/ab2/bx", "in/ac/ab", "in/ab3", "other/ab"):
        store.write(key, b"")
    listed = [store.key(entry.uri) for entry in storage.list_entries(store.uri("in"), "ab")]
    assert listed == ["in/ab1/ax", "in/ab2/bx", "in/ab3"]
    assert storage.folders(store.uri("in"), "ab") == ["ab1", "ab2"]
    assert storage.folders(store.root) == ["in", "other"]
    assert storage.folders(store.uri("nothing")) == []


def test_what_is_removed_is_gone_and_may_be_removed_again(root: str) -> None:
    store = open_store(root)
    store.write("a/b", b"")
    store.write("a/c", b"")
    store.delete("a/b")
    store.delete("a/b")
    assert store.keys("a") == ["a/c"]


def test_objects_tell_when_they_were_written(root: str) -> None:
    store, before = open_store(root), time.time()
    store.write("a", b"")
    (entry,) = storage.list_entries(store.root)
    for modified in (entry.modified, storage.stat(entry.uri).modified):
        assert before - 2 < modified < time.time() + 2  # stores cut the fraction


def test_a_part_that_goes_between_listing_and_reading_is_read_where_it_went(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = open_store(root), storage.read
    store.write_table("t/old.parquet", pa.table({"a": [1]}))

    def merged_meanwhile(uri: str) -> Blob:
        store.write_table("t/new.parquet", pa.table({"a": [1]}))
        store.delete("t/old.parquet")
        return read(uri)

    monkeypatch.setattr(storage, "read", merged_meanwhile)
    assert store.read_tables("t", pa.schema([("a", pa.int64())]), ["a"])["a"].to_pylist() == [1]


def test_what_a_kill_left_half_written_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".part-1.parquet.x7f.partial").write_bytes(b"hal")
    assert open_store(str(tmp_path)).keys("") == []


def test_tables_of_a_prefix_come_as_one_with_null_for_missing_columns(root: str) -> None:
    store = open_store(root)
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    store.write_table("t/1.parquet", pa.table({"a": [1]}))
    store.write_table("t/2.parquet", pa.table({"a": [2], "b": ["x"], "c": [0]}))
    assert store.read_tables("t", schema, ["a", "b"]).to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert store.read_tables("none", schema, ["a"]).schema.names == ["a"]


def test_a_part_that_is_there_is_left_as_it_is(root: str) -> None:
    store = open_store(root)
    store.write_table("t.parquet", pa.table({"a": [1]}))
    store.write_table("t.parquet", pa.table({"a": [2]}))
    assert store.read_table("t.parquet")["a"].to_pylist() == [1]


def test_a_listing_of_many_pages_is_whole(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.s3._PAGE_KEYS", 3)
    s3.make_bucket("many")
    store = Store("s3://many")
    keys = [f"x/{index}" for index in range(10)]
    storage.in_threads(lambda key: store.write(key, b""), keys)
    assert store.keys("x") == keys


def test_a_failed_write_leaves_neither_object_nor_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        storage.write(str(tmp_path / "a"), b"x")
    assert list(tmp_path.iterdir()) == []


def test_transient_errors_are_tried_again_and_final_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "wait_random_exponential", lambda **_: lambda _state: 0.0)
    calls = []

    def fails(error: Exception, times: int) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    assert retrying.retried("get", "u", fails, OSError("busy"), 3) == "done"
    calls.clear()
    with pytest.raises(FileNotFoundError):
        retrying.retried("get", "u", fails, FileNotFoundError("gone"), 3)
    assert len(calls) == 1


def test_a_loop_of_links_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert [Path(entry.uri).name for entry in storage.list_entries(str(tmp_path))] == ["f"]


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "http://host/x"])
def test_unknown_places_are_refused(uri: str) -> None:
    with pytest.raises(StorageError):
        open_store(uri)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("out/x/") == Store(str(tmp_path.resolve() / "out" / "x"))
    assert storage.normalise("s3://b/x/") == "s3://b/x"


def test_a_path_is_told_without_its_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "real" / "f").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "g").symlink_to("f")
    file, real = str(tmp_path / "real" / "f"), str(tmp_path / "real")
    for given in ("link/f", "real/g", "link/g", "link/below/../f", "real//f", "real/./f", "link/f/"):
        assert storage.normalise(f"{tmp_path}/{given}") == file, given
    assert storage.normalise(f"file://{tmp_path}/link/") == storage.normalise(f"{real}/below/..") == real
    assert (storage.normalise("/"), storage.normalise("/gone")) == ("/", "/gone")
    assert storage.normalise("gone") == str(Path.cwd().resolve() / "gone")


def test_a_link_beside_a_folder_is_listed_and_one_that_leads_back_is_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "f").touch()
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "beside").symlink_to(tmp_path / "c")
    names = [Path(entry.uri).relative_to(tmp_path).as_posix() for entry in storage.list_entries(str(tmp_path))]
    assert names == ["a/beside/f", "c/f"]


def test_a_file_that_is_written_over_while_it_is_read_has_no_version_of_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fstat = tmp_path / "a", os.fstat
    path.write_bytes(b"old")
    listed = storage.stat(str(path)).version

    def then_written_over(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        path.write_bytes(b"newer")
        monkeypatch.setattr(os, "fstat", fstat)
        return found

    monkeypatch.setattr(os, "fstat", then_written_over)
    blob = storage.read(str(path))
    assert blob.data == b"newer"
    assert blob.version not in (listed, storage.stat(str(path)).version)
    assert listed in blob.version


def test_names_are_told_also_of_what_goes_while_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scan = open_store(str(tmp_path)), disk._scan
    store.write("a/b", b"")

    def then_gone(folder: str, beginning: str) -> tuple[list[str], set[str]]:
        found = scan(folder, beginning)
        (tmp_path / "a/b").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(disk, "_scan", then_gone)
    assert store.keys("a") == ["a/b"]
    assert store.keys("a") == []


def test_a_link_to_itself_is_left_out_of_a_listing(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "z.png").write_bytes(b"")
    assert [Path(entry.uri).name for entry in storage.list_entries(str(tmp_path))] == ["z.png"]
    assert storage.folders(str(tmp_path)) == []


def test_a_disk_that_does_not_answer_a_listing_is_asked_again_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "wait_random_exponential", lambda **_: lambda _state: 0.0)
    (tmp_path / "a").write_bytes(b"")
    scan, stale = os.scandir, [OSError(errno.ESTALE, "Stale file handle")] * 2

    def stale_first(folder: str) -> object:
        if stale:
            raise stale.pop()
        return scan(folder)

    monkeypatch.setattr(os, "scandir", stale_first)
    assert [entry.size for entry in storage.list_entries(str(tmp_path))] == [0]
    stale += [OSError(errno.ESTALE, "Stale file handle")] * 20
    with pytest.raises(UnansweredError, match=f"list {tmp_path}: failed 14 times.*Stale"):
        list(storage.list_entries(str(tmp_path)))


@pytest.mark.parametrize("cut", [0, 10, -10])
def test_a_damaged_object_is_told_with_its_place_and_the_mend(root: str, cut: int) -> None:
    store = open_store(root)
    whole = storage.parquet_bytes(pa.table({"a": ["x" * 100] * 100}))
    store.write("t.parquet", whole[:cut])
    with pytest.raises(StorageError, match=r"t\.parquet is damaged, no whole Parquet file: .*remove it and run"):
        store.read_table("t.parquet")
    store.write("j.json", b'{"a": [1, 2'[: cut or None])
    with pytest.raises(StorageError, match=r"j\.json is damaged, no whole JSON: .*remove it and run"):
        store.read_json("j.json")
