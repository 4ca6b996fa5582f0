"""The API over HTTP says what the API says, in JSON and with HTTP's own words for failing."""

from __future__ import annotations

import base64
import json

import pytest
from starlette.testclient import TestClient

from lookalike.client import Client
from lookalike.client.errors import LookalikeError
from lookalike.web import Settings, make_app
from lookalike.web.errors import _CODES, STATUS, code_of, status_of
from made_pictures import jpeg
from web.conftest import STORED


def test_a_picture_finds_itself_in_a_form(http: TestClient) -> None:
    answer = http.post("/v1/search", files={"image": jpeg(7)}, data={"limit": "3"})
    assert answer.status_code == 200
    hits = answer.json()["hits"]
    assert len(hits) == 3
    assert hits[0]["id"] == "scene/7.jpg"
    assert hits[0]["score"] >= 0.999
    assert hits[0]["metadata"] == {"colour": "green", "number": 7, "tags": []}
    assert hits[0]["image"]["has_thumbnail"] is True
    assert answer.json()["info"]["total_ms"] > 0


def test_a_picture_finds_itself_in_json(http: TestClient) -> None:
    picture = base64.b64encode(jpeg(8)).decode()
    answer = http.post("/v1/search", json={"image": {"data": picture}, "limit": 1, "view": "id"})
    assert [hit["id"] for hit in answer.json()["hits"]] == ["scene/8.jpg"]
    assert "metadata" not in answer.json()["hits"][0]


def test_an_answer_is_the_clients_own(http: TestClient, server: str) -> None:
    with Client(server) as client:
        theirs = client.search(like="scene/5.jpg", k=10, where="colour = 'blue'")
    query = {"item_id": "scene/5.jpg", "limit": 10, "where": "colour = 'blue'"}
    ours = http.post("/v1/search", json=query).json()
    assert [hit["id"] for hit in ours["hits"]] == list(theirs.ids)
    assert [hit["score"] for hit in ours["hits"]] == pytest.approx([h.score for h in theirs])
    assert ours["info"]["matched_count"] == theirs.info.matched_count == STORED // 3


def test_parts_name_the_file_of_their_form(http: TestClient) -> None:
    request = {
        "parts": [
            {"image": "@image", "weight": 1},
            {"item_id": "scene/9.jpg", "weight": -1},
        ],
        "limit": 5,
    }
    form = {"request": json.dumps(request)}
    answer = http.post("/v1/search", files={"image": jpeg(4)}, data=form)
    assert answer.status_code == 200, answer.text
    ids = [hit["id"] for hit in answer.json()["hits"]]
    assert ids[0] == "scene/4.jpg"
    assert "scene/9.jpg" not in ids


def test_a_region_may_be_typed_in_three_ways(http: TestClient) -> None:
    box = {"left": 0.1, "top": 0.2, "width": 0.5, "height": 0.6}
    forms = ["0.1,0.2,0.5,0.6", json.dumps(box), "[0.1, 0.2, 0.5, 0.6]"]
    answers = [
        http.post("/v1/search", files={"image": jpeg(1)}, data={"region": form}).json()["hits"]
        for form in forms
    ]
    assert answers[0] == answers[1] == answers[2]
    whole = http.post("/v1/search", files={"image": jpeg(1)}).json()["hits"]
    assert answers[0][0]["score"] != whole[0]["score"]


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ({}, 400, "QUERY_MISSING"),
        ({"item_id": "nothing"}, 404, "ITEM_NOT_FOUND"),
        ({"item_id": "scene/1.jpg", "collection": "none"}, 404, "COLLECTION_NOT_FOUND"),
        ({"text": "a red mug"}, 400, "MODEL_LACKS_MODALITY"),
        ({"vector": [1.0, 2.0]}, 400, "DIMENSION_MISMATCH"),
        ({"item_id": "scene/1.jpg", "where": "price <"}, 400, "FILTER_INVALID"),
        ({"item_id": "scene/1.jpg", "where": 3}, 400, "FILTER_INVALID"),
        ({"item_id": "scene/1.jpg", "limit": "many"}, 400, "ARGUMENT_INVALID"),
        ({"item_id": "scene/1.jpg", "limit": -1}, 400, "ARGUMENT_INVALID"),
        ({"item_id": "scene/1.jpg", "colour": "red"}, 400, "ARGUMENT_INVALID"),
        ({"image": {"data": "%%%"}}, 400, "IMAGE_UNDECODABLE"),
        (
            {"image": {"data": base64.b64encode(b"no picture").decode()}},
            400,
            "IMAGE_FORMAT_UNSUPPORTED",
        ),
        ({"image": "@image"}, 400, "ARGUMENT_INVALID"),
        ({"item_id": "scene/1.jpg", "region": [0.1, 0.2]}, 400, "ARGUMENT_INVALID"),
        ({"item_id": "scene/1.jpg", "filter": {"all": [[[[]]]]}}, 400, "ARGUMENT_INVALID"),
        ({"parts": "no list"}, 400, "ARGUMENT_INVALID"),
        ({"parts": [3]}, 400, "ARGUMENT_INVALID"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    http: TestClient, query: dict[str, object], status: int, reason: str
) -> None:
    answer = http.post("/v1/search", json=query)
    error = answer.json()["error"]
    assert (answer.status_code, error["reason"]) == (status, reason), error
    assert error["message"]
    assert set(error) <= {"code", "reason", "message", "field", "retry_after_s"}


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b"{", "application/json", 400, "ARGUMENT_INVALID"),
        (b"[]", "application/json", 400, "ARGUMENT_INVALID"),
        (b"[" * 100_000, "application/json", 400, "ARGUMENT_INVALID"),
        (b"\xff", "application/json", 400, "ARGUMENT_INVALID"),
        (b"text=x", "application/x-www-form-urlencoded", 415, "MEDIA_TYPE_UNSUPPORTED"),
        (b"{}", "text/plain", 415, "MEDIA_TYPE_UNSUPPORTED"),
        (b"x", "multipart/form-data", 415, "MEDIA_TYPE_UNSUPPORTED"),
        (b"x", "multipart/form-data; boundary=b", 400, "ARGUMENT_INVALID"),
        (b'--b\r\nContent-Disposition: form-data; name="image"', "multipart/form-data; boundary=b",
         400, "ARGUMENT_INVALID"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_read_are_refused(
    http: TestClient, body: bytes, kind: str, status: int, reason: str
) -> None:
    answer = http.post("/v1/search", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)


def test_each_file_of_an_upload_has_an_outcome_of_its_own(http: TestClient) -> None:
    files = [("file", (f"{i}.jpg", jpeg(200 + i))) for i in range(20)]
    files[7] = ("file", ("bad.jpg", b"no picture"))
    files[12] = ("file", ("cut.jpg", jpeg(212)[:400]))
    answer = http.post("/v1/items", files=files, data={"collection": "spare"})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["name"] for result in results] == [name for _, (name, _) in files]
    bad = {i: result["error"]["reason"] for i, result in enumerate(results) if "error" in result}
    assert bad == {7: "IMAGE_FORMAT_UNSUPPORTED", 12: "IMAGE_UNDECODABLE"}
    assert answer.json()["counts"] == {
        "created": 18, "updated": 0, "unchanged": 0, "skipped": 0, "failed": 2,
    }  # fmt: skip
    again = http.post("/v1/items", files=files, data={"collection": "spare"})
    assert again.json()["counts"]["unchanged"] == 18
    found = http.post(
        "/v1/search", files={"image": jpeg(203)}, data={"collection": "spare", "limit": "1"}
    )
    assert found.json()["hits"][0]["id"] == "3.jpg"


def test_fields_hold_for_the_files_after_them(http: TestClient) -> None:
    parts: list[tuple[str, tuple[str | None, bytes]]] = [
        ("collection", (None, b"spare")),
        ("metadata", (None, b'{"shelf": 1}')),
        ("id", (None, b"named")),
        ("file", ("a.jpg", jpeg(300))),
        ("file", ("b/../c \xe4.jpg", jpeg(301))),
        ("metadata", (None, b'{"shelf": 2}')),
        ("ids", (None, b"content")),
        ("file", ("same.jpg", jpeg(302))),
        ("file", ("same.jpg", jpeg(303))),
    ]
    answer = http.post("/v1/items", files=parts)
    ids = [result["id"] for result in answer.json()["results"]]
    assert ids[:2] == ["named", "b/../c \xe4.jpg"]
    assert [item_id[:7] for item_id in ids[2:]] == ["sha256:", "sha256:"]
    assert answer.json()["counts"]["created"] == 4
    get = http.get("/v1/items/b%2F..%2Fc%20%C3%A4.jpg", params={"collection": "spare"})
    assert get.json()["metadata"] == {"shelf": 1}
    get = http.get(f"/v1/items/{ids[3]}", params={"collection": "spare"})
    assert get.json()["metadata"] == {"shelf": 2}


def test_an_id_stands_for_one_file_of_a_form(http: TestClient) -> None:
    files = [
        ("file", ("same.jpg", jpeg(600))),
        ("file", ("same.jpg", b"no picture")),
        ("file", ("same.jpg", jpeg(600))),
        ("file", ("bad.jpg", b"no picture")),
        ("file", ("bad.jpg", b"no picture")),
    ]
    answer = http.post("/v1/items", files=files, data={"collection": "spare"}).json()
    outcomes = [(one["outcome"], one.get("error", {}).get("reason")) for one in answer["results"]]
    assert outcomes == [
        ("created", None),
        ("failed", "ITEM_EXISTS"),
        ("unchanged", None),
        ("failed", "IMAGE_FORMAT_UNSUPPORTED"),
        ("failed", "IMAGE_FORMAT_UNSUPPORTED"),
    ]


@pytest.mark.parametrize(
    ("parts", "status", "reason"),
    [
        ([], 415, "MEDIA_TYPE_UNSUPPORTED"),
        ([("collection", (None, b"spare"))], 400, "INPUTS_EMPTY"),
        ([("colour", (None, b"red"))], 400, "ARGUMENT_INVALID"),
        ([("metadata", (None, b"[1]"))], 400, "ARGUMENT_INVALID"),
        ([("ids", (None, b"mine"))], 400, "ARGUMENT_INVALID"),
        ([("write_mode", (None, b"append"))], 400, "ARGUMENT_INVALID"),
        ([("collection", (None, b"none")), ("f", ("a", b"x"))], 404, "COLLECTION_NOT_FOUND"),
        ([("metadata", (None, b"x" * (2**20 + 1)))], 400, "ARGUMENT_INVALID"),
    ],
)
def test_forms_that_cannot_be_meant_are_refused(
    http: TestClient, parts: list[tuple[str, tuple[str | None, bytes]]], status: int, reason: str
) -> None:
    answer = http.post("/v1/items", files=parts)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)


def test_a_file_too_large_or_of_an_impossible_name_fails_alone(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def least(self: object) -> int:
        return 20_000

    monkeypatch.setattr("lookalike.web.backend.Backend.max_image_bytes", least)
    with TestClient(make_app(Settings(server)), base_url="http://localhost") as http:
        large = jpeg(400) + b"\0" * 20_000
        files = [("file", ("large.jpg", large)), ("file", ("n" * 300, jpeg(401)))]
        files.append(("file", ("fits.jpg", jpeg(402))))
        answer = http.post("/v1/items", files=files, data={"collection": "spare"})
        reasons = [result.get("error", {}).get("reason") for result in answer.json()["results"]]
        assert reasons == ["IMAGE_TOO_LARGE", "ID_INVALID", None]
        refused = http.post("/v1/search", files={"image": large})
        assert refused.json()["error"]["reason"] == "IMAGE_TOO_LARGE"


def test_a_thumbnail_is_our_own_jpeg_and_safe_to_show(http: TestClient) -> None:
    answer = http.get("/v1/items/scene%2F5.jpg/image")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content.startswith(b"\xff\xd8")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "content-disposition" not in answer.headers


def test_an_original_comes_only_as_an_attachment(http: TestClient) -> None:
    odd = 'evil"\r\n<svg>.html'
    parts = [
        ("collection", (None, b"spare")),
        ("id", (None, b'x/..evil".html')),
        ("file", (odd, jpeg(500))),
    ]
    http.post("/v1/items", files=parts)
    where = {"collection": "spare", "original": "1"}
    answer = http.get("/v1/items/x%2F..evil%22.html/image", params=where)
    assert answer.content == jpeg(500)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="evil_.html"'
    none = http.get("/v1/items/scene%2F5.jpg/image", params={"original": "1"})
    assert (none.status_code, none.json()["error"]["reason"]) == (404, "IMAGE_NOT_RETAINED")


def test_items_are_listed_page_by_page_and_by_condition(http: TestClient) -> None:
    seen, token = [], ""
    while True:
        asked = {"limit": "7", "where": "colour = 'red'", "page_token": token}
        page = http.get("/v1/items", params=asked).json()
        seen += [item["id"] for item in page["items"]]
        token = page["next_page_token"]
        if not token:
            break
    assert sorted(seen) == sorted(f"scene/{i}.jpg" for i in range(0, STORED, 3))
    assert http.get("/v1/items", params={"limit": "x"}).status_code == 400


def test_values_are_counted(http: TestClient) -> None:
    answer = http.get("/v1/values", params={"field": "colour", "where": "number < 10"})
    if answer.status_code == 501:
        pytest.skip("the server does not count values yet")
    (field,) = answer.json()["fields"]
    assert [(v["value"], v["count"]) for v in field["values"]] == [
        ("red", 4), ("blue", 3), ("green", 3),
    ]  # fmt: skip


def test_collections_say_what_their_model_embeds(http: TestClient) -> None:
    found = {one["name"]: one for one in http.get("/v1/collections").json()["collections"]}
    assert found["default"]["item_count"] >= STORED
    assert found["default"]["state"] == "ready"
    assert found["default"]["modalities"] == ["image"]
    assert found["spare"]["image_retention"] == "original"
    one = http.get("/v1/collections/default").json()
    assert one["modalities"] == ["image"]
    assert one["calibration"]["pair_count"] > 0
    assert http.get("/v1/collections/none").status_code == 404


def test_the_server_is_described_without_its_address(http: TestClient, server: str) -> None:
    answer = http.get("/v1/info")
    assert answer.json()["limits"]["max_image_bytes"] > 0
    assert {"name": "builtin", "modalities": ["image"]} in answer.json()["models"]
    assert server not in answer.text


def test_nothing_is_cached_but_pictures(http: TestClient) -> None:
    assert http.get("/v1/info").headers["cache-control"] == "no-store"
    assert (
        http.get("/v1/items/scene%2F1.jpg/image?v=1").headers["cache-control"].startswith("private")
    )
    first = http.get("/")
    assert http.get("/", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_a_server_that_is_away_is_503_and_stays_unnamed() -> None:
    away = Settings("127.0.0.1:1", call_timeout_s=5, upload_patience_s=0.1)
    with TestClient(make_app(away), base_url="http://localhost") as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503
        for answer in (
            http.get("/v1/collections"),
            http.post("/v1/search", files={"image": jpeg(1)}),
            http.post("/v1/items", files={"file": ("a.jpg", jpeg(1))}),
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["reason"] == "SERVER_UNAVAILABLE"
            assert "127.0.0.1" not in answer.text


def test_every_error_has_a_code_and_every_code_a_status() -> None:
    def classes(base: type[LookalikeError]) -> list[type[LookalikeError]]:
        return [base, *(found for sub in base.__subclasses__() for found in classes(sub))]

    for kind in classes(LookalikeError):
        error = kind("x")
        assert code_of(error) in STATUS
        assert 400 <= status_of(error) < 600
    assert set(_CODES.values()) <= set(STATUS)
    assert status_of(LookalikeError("x", reason="UNIMPLEMENTED")) == 501


def test_a_defect_tells_the_caller_nothing(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("secret /etc/path")

    monkeypatch.setattr("lookalike.web.routes.search.search_request", broken)
    app = make_app(Settings(server))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as http:
        answer = http.post("/v1/search", json={})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (500, "INTERNAL")
    assert "secret" not in answer.text


def test_waiting_is_told_where_the_server_suggests_it(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookalike.client.errors import Overloaded

    async def full(*args: object) -> None:
        raise Overloaded("The queue is full.", retry_after_s=1.2)

    monkeypatch.setattr("lookalike.web.backend.Backend.call", full)
    answer = http.post("/v1/search", json={"item_id": "x"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["error"]["retry_after_s"] == 1.2
