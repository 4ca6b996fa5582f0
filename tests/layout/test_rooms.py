"""The rooms stand as docs/architecture.md draws them, and no one looks into the wrong one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lookalike

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "lookalike.v1": ROOT / "protos/lookalike/v1",
    "lookalike.backends": ROOT / "backends/lookalike/backends",
    "lookalike.server": ROOT / "server/lookalike/server",
    "lookalike.client": ROOT / "clients/lookalike/client",
    "lookalike.web": ROOT / "clients/lookalike/web",
}
# Who may import whom, by module prefix.
ALLOWED = {
    "lookalike.v1": {"lookalike.v1", "google", "grpc"},
    "lookalike.backends": {"lookalike.backends"},
    "lookalike.server": {"lookalike.backends", "lookalike.v1", "lookalike.server"},
    "lookalike.client": {"lookalike.v1", "lookalike.client"},
    "lookalike.web": {"lookalike.v1", "lookalike.client", "lookalike.web"},
}
# Libraries that only some modules may import: prefix -> the paths below ROOT.
CONFINED = {
    "apsw": ["server/lookalike/server/store/"],
    "PIL": ["server/lookalike/server/images/", "clients/lookalike/client/"],
    "faiss": ["backends/lookalike/backends/index/_faiss"],
    "hnswlib": ["backends/lookalike/backends/index/_hnswlib"],
    "starlette": ["clients/lookalike/web/"],
    "uvicorn": ["clients/lookalike/web/"],
    "jinja2": ["clients/lookalike/web/"],
    "python_multipart": ["clients/lookalike/web/"],
    "torch": [
        "backends/lookalike/backends/embed/_clip",
        "backends/lookalike/backends/embed/_check",
    ],
    "transformers": [
        "backends/lookalike/backends/embed/_clip",
        "backends/lookalike/backends/embed/_check",
    ],
    "openvino": ["backends/lookalike/backends/embed/_clip"],
    "nncf": ["backends/lookalike/backends/embed/_clip"],
    "grpc": [
        "protos/",
        "server/lookalike/server/rpc/",
        "server/lookalike/server/app.py",
        "clients/",
    ],
    "lookalike.v1": [
        "protos/",
        "server/lookalike/server/rpc/",
        "server/lookalike/server/app.py",
        "clients/",
    ],
    "google": [
        "protos/",
        "server/lookalike/server/rpc/",
        "server/lookalike/server/app.py",
        "clients/",
    ],
}
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "joblib"}


def modules() -> list[Path]:
    found = [path for room in ROOMS.values() for path in sorted(room.rglob("*.py"))]
    return [path for path in found if "_pb2" not in path.name]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path}:{node.lineno} imports relatively; say lookalike.…")


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def offences(path: Path, room: str) -> list[str]:
    relative = path.relative_to(ROOT).as_posix()
    found = []
    for name, line in imports(path):
        if within(name, "lookalike") and not any(within(name, ok) for ok in ALLOWED[room]):
            found.append(f"{relative}:{line} imports {name}: {room} may not")
        for prefix, places in CONFINED.items():
            if within(name, prefix) and not any(relative.startswith(place) for place in places):
                found.append(f"{relative}:{line} imports {name}, which belongs to {places}")
        if name.split(".")[0] in FORBIDDEN:
            found.append(f"{relative}:{line} imports {name}: code in data is not allowed")
    return found


def test_every_room_is_a_portion_of_one_namespace() -> None:
    assert {Path(p).resolve() for p in lookalike.__path__} >= {
        room.parent.resolve() for room in ROOMS.values()
    }


def test_no_room_makes_the_namespace_a_package_of_its_own() -> None:
    stray = [str(p) for p in ROOT.glob("*/lookalike/__init__.py")]
    assert not stray, "remove them: they hide the other rooms"


def test_every_room_is_typed() -> None:
    for room in ROOMS.values():
        assert (room / "py.typed").is_file(), f"{room} lacks py.typed"


def test_rooms_import_only_whom_they_may() -> None:
    found = [
        offence
        for name, room in ROOMS.items()
        for path in modules()
        if path.is_relative_to(room)
        for offence in offences(path, name)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("lookalike.backends", "import grpc"),
        ("lookalike.backends", "from lookalike.server.domain import Item"),
        ("lookalike.client", "from lookalike.backends.types import Hits"),
        ("lookalike.client", "from lookalike.web.gateway import make_app"),
        ("lookalike.client", "import starlette"),
        ("lookalike.web", "from lookalike.server.domain import Item"),
        ("lookalike.server", "import apsw"),
        ("lookalike.server", "import pickle"),
    ],
)
def test_the_rule_sees_a_planted_offence(room: str, line: str, tmp_path: Path) -> None:
    planted = ROOMS[room] / "planted.py"
    path = tmp_path / "planted.py"
    path.write_text(line)
    found = [name for name, _ in imports(path)]
    assert found
    original = Path.read_text

    def read(self: Path, *args: object, **kwargs: object) -> str:
        return line if self == planted else original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", read)
        assert offences(planted, room)


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in modules():
        text = path.read_text()
        if (lines := len(text.splitlines())) > 400:
            long.append(f"{path.relative_to(ROOT)} has {lines} lines; cut it")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
                if size > 50:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {size} lines")
    assert not long, "\n".join(long)
