from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lookalike.backends.errors import (
    FailedPrecondition,
    InvalidArgument,
    KeyExpired,
    KeyInvalid,
    NotFound,
)
from lookalike.server import keys as keys_module
from lookalike.server.keys import KeyRing, Scope, add_key, make_key, read_keys, revoke_key
from lookalike.server.keys_commands import read_time
from lookalike.server.watching import FileWatch

NOW = 1_700_000_000.0


def test_a_key_is_256_random_bits_and_the_file_has_only_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    texts = set()
    for _ in range(20):
        text, key = make_key(Scope.READ, now=NOW)
        add_key(file, key)
        prefix, key_id, secret = text.split("_")
        assert (prefix, len(key_id), len(bytes.fromhex(secret))) == ("lk", 12, 32)
        assert key.digest == hashlib.sha256(text.encode()).hexdigest()
        texts.add(secret)
    assert len(texts) == 20
    content = file.read_text()
    assert not any(secret in content for secret in texts)
    assert not any(secret in repr(read_keys(file)) for secret in texts)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys"
    made = [
        make_key(Scope.READ, now=NOW)[1],
        make_key(Scope.WRITE, now=NOW, collections=["a", "b-1", "a"], note="for Zoë")[1],
        make_key(Scope.ADMIN, now=NOW, expires=NOW + 5)[1],
    ]
    for key in made:
        add_key(file, key)
    assert read_keys(file) == made
    assert made[1].collections == ("a", "b-1")
    assert [key.state(NOW + 5) for key in made] == ["valid", "valid", "expired"]


def test_only_the_owner_can_read_the_file_also_after_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    old = os.umask(0)
    try:
        for _ in range(2):
            _, key = make_key(Scope.READ, now=NOW)
            add_key(file, key)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(old)
    assert os.listdir(tmp_path) == ["keys"]


def test_a_file_that_others_may_write_to_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, make_key(Scope.ADMIN, now=NOW)[1])
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        with pytest.raises(FailedPrecondition, match="chmod 600"):
            read_keys(file)
    file.chmod(0o644)
    assert len(read_keys(file)) == 1


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    add_key(file, make_key(Scope.READ, now=NOW)[1])
    before = file.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys_module.os, "fsync", full)  # type: ignore[attr-defined]
    with pytest.raises(FailedPrecondition, match="No space"):
        add_key(file, make_key(Scope.READ, now=NOW)[1])
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["keys"]


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    add_key(real, make_key(Scope.READ, now=NOW)[1])
    link.symlink_to(real)
    add_key(link, make_key(Scope.READ, now=NOW)[1])
    assert link.is_symlink()
    assert len(read_keys(real)) == 2


def test_keys_that_are_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    threads = [
        threading.Thread(target=add_key, args=(file, make_key(Scope.READ, now=NOW)[1]))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(file)) == 16


def line(**changes: Any) -> str:
    _, key = make_key(Scope.READ, now=NOW)
    values: dict[str, Any] = {"id": key.id, "digest": key.digest, "scope": "read"}
    return json.dumps({**values, **changes})


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "7",
        '"text"',
        "{}",
        line(scope="root"),
        line(scope=4),
        line(digest=""),
        line(id="X"),
        line(collections=[]),
        line(collections="abc"),
        line(collections=["../x"]),
        line(collections=[7]),
        line(expires="soon"),
        line(expires=-1),
        line(note=7),
        line(collection=["a"]),
        line()[:-1] + ', "expires": NaN}',
        "[" * 100_000,
    ],
    ids=range(19),  # each run makes keys of its own
)
def test_a_line_that_is_not_wholly_understood_is_refused(tmp_path: Path, bad: str) -> None:
    """A misspelt limit must not be a key without limits."""
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{line()}\n{bad}\n")
    file.chmod(0o600)
    with pytest.raises(FailedPrecondition, match="line 4 is not a key") as caught:
        read_keys(file)
    assert "digest" not in caught.value.message


def test_two_keys_of_one_id_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    same = line()
    file.write_text(f"{same}\n{same}\n")
    file.chmod(0o600)
    with pytest.raises(FailedPrecondition, match="line 2"):
        read_keys(file)


def test_a_file_that_is_not_there_is_told_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="lookalike keys create"):
        read_keys(tmp_path / "gone")


def test_a_revoked_key_stays_in_the_file_and_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    text, key = make_key(Scope.ADMIN, now=NOW)
    add_key(file, key)
    assert KeyRing(read_keys(file)).check(text, NOW) == key
    assert revoke_key(file, key.id, NOW + 1).revoked == NOW + 1
    assert revoke_key(file, key.id, NOW + 2).revoked == NOW + 1, "the first time counts"
    with pytest.raises(KeyInvalid):
        KeyRing(read_keys(file)).check(text, NOW + 3)
    with pytest.raises(NotFound):
        revoke_key(file, "0" * 12, NOW)


def test_only_the_whole_key_is_a_key() -> None:
    text, key = make_key(Scope.READ, now=NOW)
    ring = KeyRing([key])
    assert ring.check(text, NOW) == key
    secret = text.rpartition("_")[2]
    wrong = [
        *(text[:i] + ("0" if text[i] != "0" else "1") + text[i + 1 :] for i in range(len(text))),
        *(text[:i] for i in range(len(text))),
        *(text + "0", text.upper(), " " + text, text + "\n", secret, key.digest, key.id),
        *(f"lk_{key.id}_{key.digest}", "", "\ud800", "é" * 80, "\x00" * 80),
    ]
    for one in wrong:
        with pytest.raises(KeyInvalid):
            ring.check(one, NOW)


def test_who_has_only_an_id_learns_nothing_of_its_key() -> None:
    text, key = make_key(Scope.READ, now=NOW, expires=NOW + 1)
    ring = KeyRing([key])
    with pytest.raises(KeyExpired):
        ring.check(text, NOW + 1)
    said = set()
    for guess in (f"lk_{key.id}_{'0' * 64}", f"lk_{'0' * 12}_{'0' * 64}", "junk"):
        with pytest.raises(KeyInvalid) as caught:
            ring.check(guess, NOW + 1)
        said.add(caught.value.message)
    assert len(said) == 1


def test_every_check_compares_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    text, key = make_key(Scope.READ, now=NOW)
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(keys_module.hmac, "compare_digest", compare)  # type: ignore[attr-defined]
    ring = KeyRing([key])
    ring.check(text, NOW)
    for wrong in (text[:-1] + "x", "lk_" + "0" * 12 + "_" + "0" * 64, "junk"):
        with pytest.raises(KeyInvalid):
            ring.check(wrong, NOW)
    assert len(compared) == 4


def test_a_key_that_was_changed_does_not_go_on() -> None:
    _, key = make_key(Scope.WRITE, now=NOW)
    KeyRing([key]).confirm(key, NOW)
    _, other = make_key(Scope.WRITE, now=NOW)
    for ring in (KeyRing([]), KeyRing([other])):
        with pytest.raises(KeyInvalid):
            ring.confirm(key, NOW)


@pytest.mark.parametrize("name", ["", "A", "../x", "a b", "x" * 64, "1a"])
def test_a_key_is_not_made_for_what_cannot_be_a_collection(name: str) -> None:
    with pytest.raises(InvalidArgument):
        make_key(Scope.READ, now=NOW, collections=[name])


@pytest.mark.parametrize("note", ["x" * 201, "two\nlines", "\x1b[2J"])
def test_a_note_is_one_line(note: str) -> None:
    with pytest.raises(InvalidArgument):
        make_key(Scope.READ, now=NOW, note=note)


def test_times_are_read() -> None:
    assert read_time("12h", NOW) == NOW + 12 * 3600
    assert read_time("90d", NOW) == NOW + 90 * 86400
    assert read_time("2030-12-31", NOW) == 1924905600.0
    for wrong in ("", "0d", "soon", "-1d", "2020-01-01", "1y", "9" * 9 + "d"):
        with pytest.raises(InvalidArgument):
            read_time(wrong, NOW)


def test_a_defect_does_not_end_the_looking(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    calls: list[int] = []
    twice = threading.Event()

    def fail() -> None:
        calls.append(1)
        if len(calls) == 2:
            twice.set()
        raise RuntimeError("planted")

    watch = FileWatch([file], fail, every_s=0.01)
    watch.start()
    for content in ("a", "bc"):
        begun = len(calls)
        file.write_text(content)
        end = time.monotonic() + 5
        while len(calls) == begun and time.monotonic() < end:
            time.sleep(0.01)
    assert twice.is_set()
    watch.close()


def test_every_way_of_changing_a_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    file.write_text("a")
    seen = threading.Event()
    watch = FileWatch([file, tmp_path / "later"], seen.set, every_s=0.01)
    watch.start()

    def rewrite() -> None:
        file.write_text("b")

    def rename() -> None:
        (tmp_path / "new").write_text("c")
        os.replace(tmp_path / "new", file)

    def link() -> None:
        (tmp_path / "other").write_text("d")
        (tmp_path / "aside").symlink_to(tmp_path / "other")
        os.replace(tmp_path / "aside", file)

    def appear() -> None:
        (tmp_path / "later").write_text("e")

    for change in (rewrite, rename, link, file.unlink, appear):
        seen.clear()
        change()
        assert seen.wait(5), change
    watch.close()
    seen.clear()
    file.write_text("f")
    assert not seen.wait(0.05)
