from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from client.cli_run import Run
from client.fake_server import FakeServer, vector_of
from lookalike.v1 import index_service_pb2, types_pb2

# ------------------------------------------------------------------- search


def test_hits_come_as_one_json_object_a_line(run: Run, photos: Path) -> None:
    run("index", photos)
    code, out, _ = run("search", photos / "sub" / "b.png", "--json", "-k", "2")
    hits = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [hit["id"] for hit in hits] == ["sub/b.png", "a.jpg"]
    assert hits[0]["score"] == pytest.approx(1.0)
    assert run("search", "--like", "a.jpg", "--json")[0] == 0
    assert run("search", "--text", "a cat")[0] == 0


def test_nothing_found_is_no_failure(run: Run) -> None:
    assert run("search", "--text", "a")[:2] == (0, "")


def test_a_picture_that_is_not_there_is_not_taken_for_words(run: Run, server: FakeServer) -> None:
    for name in ("a red shoe.JPG", "./shoe", "2:shoe.png"):
        code, out, err = run("search", name)
        assert (code, out) == (1, "")
        assert "No such file" in err
        assert "--text" in err
    assert server.seen.calls == []


def test_a_picture_comes_from_stdin(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", photos)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"two")))
    assert json.loads(run("search", "-", "--json")[1].splitlines()[0])["id"] == "sub/b.png"


def test_a_pipe_gets_whole_ids_and_no_control_characters(run: Run, server: FakeServer) -> None:
    long = "x" * 250
    for item_id in (long, "evil\x1b[2J"):
        server.store("", index_service_pb2.ItemInput(id=item_id), 1)
    out = run("items", "list")[1]
    assert long in out
    assert "\x1b" not in out


def test_a_sheet_holds_everything_and_asks_for_nothing(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        image.new("RGB", (40, 30), (80 * i, 0, 0)).save(photos / f"<i>{i}.png")
    server.collections["default"].metric = types_pb2.METRIC_COSINE
    run("index", photos)
    page = tmp_path / "out.html"
    code, _, err = run("search", photos / "<i>1.png", "--html", page)
    text = page.read_text()
    assert code == 0
    assert str(page) in err
    assert text.count('src="data:image/') == 4
    assert not re.search(r"https?://|<script|<link|<i>1", text)
    assert "prefers-color-scheme: dark" in text
    assert "&lt;i&gt;1.png" in text
    assert "the same picture" in text
    like = tmp_path / "like.html"
    assert run("search", "--like", "<i>1.png", "--html", like)[0] == 0
    assert like.read_text().count('src="data:image/') == 4


# -------------------------------------------------------------------- embed


def test_vectors_are_written_in_the_order_of_their_ids(
    run: Run, tmp_path: Path, photos: Path
) -> None:
    for i in range(100):
        (photos / f"many-{i:03}.jpg").write_bytes(b"picture %d" % i)
    (photos / "bad.jpg").write_bytes(b"bad")
    (photos / "gone.jpg").symlink_to("nothing")
    out = tmp_path / "vectors.npz"
    code, printed, err = run("embed", photos, "--out", out)
    assert (code, printed) == (3, "")
    assert "bad.jpg" in err
    assert "gone.jpg" in err
    with np.load(out) as file:
        ids, vectors = file["ids"], file["vectors"]
    assert ids.dtype.kind == "U"
    assert vectors.dtype == np.float32
    assert vectors.shape == (102, 8)
    assert list(ids) == ["a.jpg", *(f"many-{i:03}.jpg" for i in range(100)), "sub/b.png"]
    for item_id, vector in zip(ids, vectors, strict=True):
        assert np.allclose(vector, vector_of((photos / item_id).read_bytes()))
    assert list(tmp_path.glob("*.part")) == []


def test_nothing_to_embed_is_an_empty_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    (tmp_path / "empty").mkdir()
    assert run("embed", tmp_path / "empty", "--out", out)[0] == 0
    with np.load(out) as file:
        assert file["vectors"].shape == (0, 0)


def test_a_file_that_cannot_be_written_is_a_line(run: Run, photos: Path, tmp_path: Path) -> None:
    code, _, err = run("embed", photos, "--out", tmp_path / "no" / "v.npz", "-q")
    assert code == 1
    assert "No such file" in err
