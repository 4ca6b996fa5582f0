"""Every call of docs/grpcurl.md is run against a real server, by a client we did not write."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from lookalike.client.local_server import LocalServer
from lookalike.v1 import (
    admin_service_pb2,
    embed_service_pb2,
    index_service_pb2,
    search_service_pb2,
    system_service_pb2,
)

DOC = Path(__file__).resolve().parents[2] / "docs" / "grpcurl.md"
SHIM = f"""#!{sys.executable}
import os, subprocess, sys
from pathlib import Path
arguments, options = iter(sys.argv[1:]), []
for argument in arguments:
    if argument == "-plaintext":
        continue
    if argument in ("-d", "-H"):
        options += [argument, next(arguments)]
    else:
        host, what = argument, next(arguments)
        break
buf = os.environ["BUF"]
if what == "list":
    command = [buf, "curl", "--protocol", "grpc", "--list-services", f"http://{{host}}"]
else:
    if "-d" in options and options[options.index("-d") + 1] == "@":
        options[options.index("-d") + 1] = "@-"
    command = [buf, "curl", "--protocol", "grpc", *options, f"http://{{host}}/{{what}}"]
sys.exit(subprocess.run(command).returncode)
"""


class Call(NamedTuple):
    text: str
    reason: str

    @property
    def method(self) -> str:
        found = re.findall(r"\$S\.(\w+/\w+)", self.text)
        return found[-1] if found else ""


class Ran(NamedTuple):
    call: Call
    code: int
    output: str


def calls() -> list[Call]:
    """Return the paragraphs of the page's sh blocks, in order."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", DOC.read_text(), re.MULTILINE | re.DOTALL):
        for paragraph in re.split(r"\n\s*\n", block.strip()):
            reason = re.search(r"# ([A-Z_]{5,})$", paragraph)
            found.append(Call(paragraph, reason.group(1) if reason else ""))
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    pytest.importorskip("transformers", reason="the calls with texts need lookalike[clip]")
    from tiny_clip import tiny_clip

    folder = tmp_path_factory.mktemp("grpcurl")
    model = folder / "tiny-clip"
    tiny_clip(model)
    rng = np.random.default_rng(4)
    for name in ("shoe", "cat"):
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)).save(folder / f"{name}.png")
    shim = folder / "grpcurl"
    shim.write_text(SHIM)
    shim.chmod(0o755)
    found = calls()
    with LocalServer(folder / "data", "--embedder", "clip", "--model", str(model)) as server:
        script = ["H=localhost:50051"]
        for i, call in enumerate(found):
            text = call.text.replace("localhost:50051", server.address)
            script += [f"echo '@@ {i}'", text, 'echo "@@ code $?"']
        buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
        if buf is None:
            pytest.skip("buf is not installed: pip install buf-bin")
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=folder,
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "BUF": buf},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=110,
            check=False,
        )
    parts = re.findall(r"@@ (\d+)\n(.*?)@@ code (\d+)\n", done.stdout, re.DOTALL)
    assert len(parts) == len(found), done.stdout[-3000:]
    return {found[int(i)].text: Ran(found[int(i)], int(code), output) for i, output, code in parts}


@pytest.mark.clip
@pytest.mark.xdist_group("grpcurl")
@pytest.mark.parametrize("call", calls(), ids=lambda call: call.text.splitlines()[-1][-60:])
def test_the_call_does_what_the_page_says(call: Call, ran: dict[str, Ran]) -> None:
    done = ran[call.text]
    assert done.code == 0, done.output  # "!" turns an expected failure into 0
    if call.reason:
        values = re.findall(r'"value": *"([A-Za-z0-9+/=_-]+)"', done.output)
        details = b" ".join(base64.b64decode(value + "==") for value in values)
        assert call.reason.encode() in details, done.output


@pytest.mark.clip
@pytest.mark.xdist_group("grpcurl")
def test_in_band_errors_are_named(ran: dict[str, Ran]) -> None:
    outputs = {done.call.method: done.output for done in ran.values() if not done.call.reason}
    assert '"QUERY_MISSING"' in outputs["SearchService/BatchSearch"]
    assert outputs["IndexService/UploadItems"].count('"FAILED_PRECONDITION"') == 2
    assert '"ID_MISSING"' in outputs["IndexService/UploadItems"]
    assert '"summary"' in outputs["IndexService/UploadItems"]
    assert '"JOB_STATE_SUCCEEDED"' in outputs["IndexService/WatchJob"]


def test_every_rpc_is_on_the_page() -> None:
    services = [
        *admin_service_pb2.DESCRIPTOR.services_by_name.values(),
        *admin_service_pb2.DESCRIPTOR.services_by_name.values(),
        *embed_service_pb2.DESCRIPTOR.services_by_name.values(),
        *index_service_pb2.DESCRIPTOR.services_by_name.values(),
        *search_service_pb2.DESCRIPTOR.services_by_name.values(),
        *system_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    wanted = {f"{service.name}/{method.name}" for service in services for method in service.methods}
    assert wanted == {call.method for call in calls() if call.method}


def test_the_page_shows_at_least_eight_errors() -> None:
    assert len({call.reason for call in calls() if call.reason}) >= 8
