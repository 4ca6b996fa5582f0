from __future__ import annotations

import os
from pathlib import Path

import pytest

from lookalike.client._calls import NewItem
from lookalike.client._files import Upload, find_files, path_metadata


def ids(path: Path, *, all_files: bool = False) -> list[str]:
    return [found.id for found in find_files(path, all_files=all_files)]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_pictures_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a/z.png", "a/b/c.webp", "c.txt", "noext", "d.TIFF", "e.jpe", "f.avif")
    assert ids(tmp_path) == ["a/b/c.webp", "a/z.png", "b.JPG", "d.TIFF", "e.jpe", "f.avif"]
    assert ids(tmp_path, all_files=True)[2:4] == ["b.JPG", "c.txt"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, ".a.jpg", ".thumbs/b.jpg", "c.jpg")
    assert ids(tmp_path) == ["c.jpg"]
    assert ids(tmp_path / ".thumbs") == ["b.jpg"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self.jpg").symlink_to(tmp_path / "a" / "self.jpg")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "b" / "y.jpg")
    found = {f.id: f.error for f in find_files(tmp_path)}
    assert sorted(found) == ["a/self.jpg", "a/x.jpg", "b/y.jpg", "c/y.jpg", "d.jpg"]
    assert [i for i, e in found.items() if e is not None] == ["a/self.jpg"]


def test_a_link_to_nothing_and_a_path_that_is_not_there_fail(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (found,) = find_files(tmp_path)
    assert found.error is not None
    assert "not there" in found.error.message
    (missing,) = find_files(tmp_path / "missing")
    assert missing.error is not None


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert ids(tmp_path, all_files=True) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "b.jpg")
    (tmp_path / "a").chmod(0)
    found = list(find_files(tmp_path))
    (tmp_path / "a").chmod(0o700)
    assert [f.error is None for f in found] == [False, True]


def test_a_name_that_is_no_utf_8_becomes_an_id_that_is(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (item_id,) = ids(tmp_path)
    assert item_id == "caf\\xe9.jpg"
    item_id.encode()


def test_a_file_that_is_named_itself_has_its_path_as_id(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    assert ids(tmp_path / "a.txt") == [(tmp_path / "a.txt").as_posix()]


def test_a_source_may_mix_what_it_is_made_of(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg", "photos/b.jpg")
    source = [tmp_path / "photos", str(tmp_path / "photos" / "a.jpg"), b"x", NewItem("n", b"y"), 7]
    entries = list(Upload(source, id_prefix="p/", metadata=lambda about: {"about": str(about)}))
    assert [e.item.id for e in entries[:2]] == ["p/a.jpg", "p/b.jpg"]
    assert entries[0].item.metadata == {"about": str(tmp_path / "photos" / "a.jpg")}
    assert entries[3].item.image == b"x"
    assert entries[4].item.id == "n"
    assert entries[5].error is not None
    with pytest.raises(TypeError, match="list"):
        list(Upload(b"x"))


def attached(source: object, **options: object) -> list[dict[str, object]]:
    entries = Upload(source, attach_path=True, **options)  # type: ignore[arg-type]
    return [dict(entry.item.metadata) for entry in entries]


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("a.jpg", ".", "a.jpg"),
        ("shoes/a.jpg", "shoes", "a.jpg"),
        ("shoes/red/a.jpg", "shoes/red", "a.jpg"),
        ("/srv/a.jpg", "/srv", "a.jpg"),
        ("/a.jpg", "/", "a.jpg"),
        ("../a.jpg", "..", "a.jpg"),
        ("../shoes/../boots/a.jpg", "../boots", "a.jpg"),
        ("shoes/../a.jpg", ".", "a.jpg"),
        ("caf\\xe9/a b.jpg", "caf\\xe9", "a b.jpg"),
    ],
)
def test_a_path_is_a_folder_and_a_name(path: str, folder: str, name: str) -> None:
    assert path_metadata(path) == {"name": name, "folder": folder}


def test_files_bring_their_paths_below_the_folder(tmp_path: Path) -> None:
    make(tmp_path, "top/a.jpg", "top/shoes/red/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "top" / "linked").symlink_to(tmp_path / "elsewhere")
    wanted = [
        {"name": "a.jpg", "folder": "."},
        {"name": "c.jpg", "folder": "linked"},
        {"name": "b.jpg", "folder": "shoes/red"},
    ]
    for root in (tmp_path / "top", tmp_path / "elsewhere" / ".." / "top"):
        assert attached(root) == wanted
        assert attached(root, id_prefix="prefix/") == wanted
        assert attached(list(find_files(root))) == wanted
    assert [dict(entry.item.metadata) for entry in Upload(tmp_path / "top")] == [{}, {}, {}]


def test_a_file_that_is_named_itself_has_the_folder_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "shoes/a.jpg")
    monkeypatch.chdir(tmp_path)
    a = {"name": "a.jpg", "folder": "shoes"}
    for source in ("shoes/a.jpg", Path("./shoes//a.jpg"), [NewItem("x", "shoes/a.jpg")]):
        assert attached(source) == [a]
    monkeypatch.chdir(tmp_path / "shoes")
    assert attached("a.jpg") == [{"name": "a.jpg", "folder": "."}]
    assert attached([b"bytes", NewItem("y", b"bytes"), NewItem("z")]) == [{}, {}, {}]


def test_what_the_user_says_goes_before_the_path(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    own = NewItem("x", tmp_path / "a.jpg", metadata={"folder": "mine", "brand": "acme"})
    assert attached([own]) == [{"name": "a.jpg", "folder": "mine", "brand": "acme"}]
    said = attached([own, tmp_path], metadata=lambda about: {"name": None})
    assert said == [
        {"name": None, "folder": "mine", "brand": "acme"},
        {"name": None, "folder": "."},
    ]


def test_a_folder_that_is_no_utf_8_is_metadata_that_is(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / os.fsdecode(b"caf\xe9") / "a.jpg").write_bytes(b"x")
    assert attached(tmp_path) == [{"name": "a.jpg", "folder": "caf\\xe9"}]
