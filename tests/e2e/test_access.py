"""Real processes that ask for keys and speak TLS: the command line, the page, reflection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from certificates import Authority
from lookalike.client import Client
from lookalike.client.errors import CollectionNotAllowed, KeyInvalid, KeyMissing, ScopeMissing
from lookalike.client.local_server import READY_LINE
from made_pictures import jpeg
from web.running import Page


@dataclass
class Running:
    """A server with keys and TLS, and what its callers need."""

    address: str
    folder: Path
    ca: Path
    keys: dict[str, str]

    def environment(self, key: str = "") -> dict[str, str]:
        """Return the variables of a caller; `key` by its name, "" for none."""
        clean = {name: v for name, v in os.environ.items() if not name.startswith("LOOKALIKE_")}
        variables = {"LOOKALIKE_ADDRESS": self.address, "LOOKALIKE_CA": str(self.ca)}
        return {**clean, **variables, **({"LOOKALIKE_API_KEY": self.keys[key]} if key else {})}

    def run(self, *arguments: object, key: str = "") -> tuple[int, str]:
        """Run a command line; return its exit code and all that it said."""
        done = subprocess.run(
            [sys.executable, "-m", "lookalike.client.cli", *map(str, arguments)],
            env=self.environment(key),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


def make_key(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "lookalike.client.cli", "keys", "create", "--keys", "keys"]
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("\n") == 1
    assert done.stdout.strip() not in done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("access")
    ca = Authority(folder / "ca")
    pair = ca.sign("server")
    keys = {
        "admin": make_key(folder, "--scope", "admin"),
        "read": make_key(folder),
        "shop": make_key(folder, "--scope", "write", "-c", "shop", "--expires", "1d"),
    }
    (folder / "photos").mkdir()
    (folder / "photos" / "one.jpg").write_bytes(jpeg(1))
    command = [sys.executable, "-m", "lookalike.server", "serve", "--data", "data"]
    command += ["--listen", "0.0.0.0:0", "--keys", "keys", "--log-level", "debug"]
    command += ["--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "GRPC_VERBOSITY": "debug"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        ready = READY_LINE.match(process.stdout.readline())
        assert ready is not None, (folder / "log").read_text()
        port = ready["address"].rpartition(":")[2]
        try:
            yield Running(f"grpcs://localhost:{port}", folder, ca.certificate, keys)
        finally:
            process.terminate()
            process.wait(40)
            process.stdout.close()
    said = (folder / "log").read_text()
    for text in keys.values():
        assert text.rpartition("_")[2] not in said, "a key is in the log"
    assert "PRIVATE KEY" not in said


def test_the_command_line_stores_and_finds_with_a_key(running: Running) -> None:
    assert running.run("index", "photos", key="admin")[0] == 0
    code, said = running.run("search", "photos/one.jpg", "--json", key="read")
    assert (code, "one.jpg" in said) == (0, True)
    assert running.run("health")[0] == 0, "without a key"


def test_the_command_line_says_what_is_wrong_with_a_key(running: Running) -> None:
    code, said = running.run("search", "photos/one.jpg")
    assert code == 1
    assert "lookalike keys create" in said
    code, said = running.run("index", "photos", key="read")
    assert code == 1
    assert "'write'" in said
    code, said = running.run("info", "--api-key-file", "gone", key="read")
    assert code == 1
    assert said.strip() == "lookalike: gone: No such file or directory"
    file = running.folder / "read.key"
    file.write_text(running.keys["read"] + "\n")
    assert running.run("info", "--api-key-file", file)[0] == 0


def test_the_client_has_an_error_for_each_refusal(running: Running) -> None:
    def client(key: str) -> Client:
        return Client(running.address, ca_certificate=running.ca, api_key=key)

    with client("") as one, pytest.raises(KeyMissing):
        one.info()
    with client("lk_wrong") as one, pytest.raises(KeyInvalid):
        one.upload(running.folder / "photos", patience_s=5)
    with client(running.keys["read"]) as one, pytest.raises(ScopeMissing, match="'admin'"):
        one.create_collection("shop")
    with client(running.keys["admin"]) as one:
        one.create_collection("shop", exist_ok=True)
    with client(running.keys["shop"]) as one:
        assert one.upload(running.folder / "photos", collection="shop").failed == 0
        assert [found.name for found in one.collections()] == ["shop"]
        with pytest.raises(CollectionNotAllowed):
            one.upload(running.folder / "photos", patience_s=5)
        with pytest.raises(CollectionNotAllowed):
            one.search(image=running.folder / "photos" / "one.jpg")


def test_keys_are_listed_and_revoked_without_being_shown(running: Running) -> None:
    text = make_key(running.folder, "--note", "for the test")
    code, said = running.run("keys", "list", "--keys", "keys")
    assert code == 0
    assert "for the test" in said
    assert text.split("_")[1] in said
    assert text.split("_")[2] not in said
    code, said = running.run("keys", "revoke", text.split("_")[1], "--keys", "keys")
    assert (code, "is revoked" in said) == (0, True)
    assert running.run("keys", "revoke", "0" * 12, "--keys", "keys")[0] == 1
    assert running.run("keys", "create", "--scope", "root", "--keys", "keys")[0] == 2
    assert running.run("keys", "create")[0] == 2, "no file was named"


def test_the_page_calls_with_a_key_of_its_own(running: Running) -> None:
    key = running.folder / "page.key"
    key.write_text(running.keys["read"])
    access = ("--ca", str(running.ca), "--api-key-file", str(key))
    with Page(running.address, *access) as page:
        assert httpx.get(f"{page.url}v1/collections").status_code == 200
        picture = {"file": ("a.jpg", b"junk", "image/jpeg")}
        stored = httpx.post(f"{page.url}v1/items", files=picture)
        assert "may not do that" in stored.text
    with Page(running.address, "--ca", str(running.ca)) as page:
        found = httpx.get(f"{page.url}v1/collections")
        assert found.status_code == 401
        assert "This page has no key" in found.text


def test_the_page_is_not_opened_to_other_machines_by_accident(running: Running) -> None:
    def page(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lookalike.web", "--server", "127.0.0.1:1"]
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *options], stdout=pipe, stderr=pipe, text=True)

    refused = page("--listen", "0.0.0.0:0")
    _, said = refused.communicate(timeout=30)
    assert refused.returncode == 1
    assert "--insecure" in said
    allowed = page("--listen", "0.0.0.0:0", "--insecure")
    assert allowed.stdout is not None
    assert allowed.stdout.readline().startswith("lookalike page ready")
    allowed.terminate()
    allowed.communicate(timeout=30)


def test_reflection_works_with_a_key(running: Running) -> None:
    """With a client that we did not write, over TLS, as grpcurl would."""
    buf = Path(sys.executable).with_name("buf")
    if not buf.exists() and shutil.which("buf") is None:
        pytest.skip("buf is not here")
    header = f"authorization: Bearer {running.keys['read']}"
    url = running.address.replace("grpcs", "https") + "/lookalike.v1.SystemService/GetServerInfo"
    command = [str(buf), "curl", "--protocol", "grpc", "--cacert", str(running.ca), "-H", header]
    done = subprocess.run(
        [*command, "--reflect-header", header, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"version"' in done.stdout
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, "reflection without a key"


def test_a_server_and_its_page_start_together_with_keys_and_tls(running: Running) -> None:
    key = running.folder / "page.key"
    key.write_text(running.keys["read"])
    pair = Authority(running.folder / "ca2").sign("server")
    command = [sys.executable, "-m", "lookalike.client.cli", "serve", "--data", "data2"]
    command += ["--listen", "0.0.0.0:0", "--keys", "keys", "--tls-certificate"]
    command += [str(pair.certificate), "--tls-key", str(pair.key), "--web-listen", "127.0.0.1:0"]
    command += ["--web-api-key-file", str(key), "--web-ca", str(running.folder / "ca2" / "ca.pem")]
    process = subprocess.Popen(
        command, cwd=running.folder, env=running.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        page = next(line for line in lines if line.startswith("lookalike page ready on "))
        found = httpx.get(f"{page.split()[4]}v1/collections")
        assert (found.status_code, found.json()) == (200, {"collections": []})
    finally:
        process.terminate()
        process.communicate(timeout=40)
