"""The pages about access say what the protos and the tests say."""

from __future__ import annotations

import re

from docs.pages import DOCS, ROOT
from lookalike.v1 import access_pb2
from rpc.access_parts import METHODS


def test_the_page_has_every_method_beside_its_scope() -> None:
    text = (DOCS / "access.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (read|write|admin) \| (.*) \|$", text, re.MULTILINE))
    for scope, cell in table.items():
        value = access_pb2.Scope.Value(f"SCOPE_{scope.upper()}")
        declared = {m.name for m in METHODS if m.GetOptions().Extensions[access_pb2.scope] == value}
        assert set(re.findall(r"`(\w+)`", cell)) == declared, scope
    assert len(table) == 3


def test_the_tests_that_the_security_page_names_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/test_\w+\.py)`", text)
    assert len(named) > 10
    for name in named:
        assert (ROOT / "tests" / name).is_file(), name
