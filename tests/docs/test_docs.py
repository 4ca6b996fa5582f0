"""The pages say what the code does: what they name is there, what is there they name."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.pages import DOCS, ROOT, blocks, generator, pages, prose
from lookalike.backends.engine.base import EngineConfig
from lookalike.backends.errors import InvalidArgument
from lookalike.backends.registry import engines
from lookalike.backends.types import IndexSpec, Metric
from lookalike.client import Client
from lookalike.client.cli._app import make_app
from lookalike.server import __main__ as server_main
from lookalike.server.config import Flags, Loaded, load
from lookalike.v1 import errors_pb2

GENERATED = ("cli.md", "config.md", "errors.md", "reliability.md")


def rows(page: str) -> Iterator[list[str]]:
    """Yield the cells of every table row of a page."""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# ----------------------------------------------------- what is there is named


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def all_commands() -> dict[str, Any]:
    client = dict(commands(typer.main.get_command(make_app()), "lookalike"))
    server = dict(commands(typer.main.get_command(server_main.app), "lookalike"))
    return {**client, **server}


@pytest.mark.parametrize("path", sorted(set(all_commands()) - {"lookalike"}))
def test_every_command_and_option_is_on_the_page(path: str) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^### {path}(?: [^a-z\n][^\n]*)?\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert section is not None, f"docs/cli.md does not describe {path}"
    for param in all_commands()[path].params:
        for name in (*param.opts, *param.secondary_opts):
            if name.startswith("-") and name not in ("--help", "-h"):
                assert re.search(rf"(?<![\w-]){name}(?![\w-])", section[1]), f"{path} {name}"


def clean_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("LOOKALIKE_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)


def settings() -> dict[str, tuple[str, str, str]]:
    """Return (default, variable, flag) by key, as config.md has them."""
    found = {}
    for cells in rows("config.md"):
        if len(cells) == 6 and cells[0].startswith("`"):
            key, _, default, _, variable, flag = (cell.strip("`") for cell in cells)
            found[key] = (default, variable, flag)
    return found


def test_every_setting_is_on_the_page_with_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, tmp_path)
    known = settings()
    for line in load(Flags({})).lines():
        key, _, default = line.partition(" = ")
        shown = default.strip().replace(str(tmp_path), "~")
        assert known[key][0] == shown, key


def test_every_variable_on_the_page_sets_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, tmp_path)
    skipped = {"models.default"}  # "" would be no model's name
    known = {key: value for key, value in settings().items() if key not in skipped}
    options = "models.NAME.options"  # of which each key has a variable of its own
    known[options + ".key"] = ("text", known.pop(options)[1] + "__KEY", "")
    for default, variable, _ in known.values():
        monkeypatch.setenv(variable, default.strip('"'))
    shown = "\n".join(load(Flags({})).lines(origin=True))
    for key, (_, variable, _) in known.items():
        name = re.escape(key.replace("NAME", "name"))
        assert re.search(rf"^{name} = .*# {variable}$", shown, re.MULTILINE), key


def test_the_whole_file_on_the_page_is_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, tmp_path)
    (tmp_path / "whole.toml").write_text(blocks(DOCS / "config.md", "toml")[0].text)
    config = load(Flags({}), tmp_path / "whole.toml").config
    assert config.default_model() == "clip"
    assert config.limits.max_image_bytes == 2**24


def test_tables_in_the_environment_are_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, tmp_path)
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    for name, value in re.findall(r"(LOOKALIKE_\w+)='(\{[^']+\})'", text):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOOKALIKE_INDEX__ALGORITHM", "hnsw")
    config = load(Flags({})).config
    assert config.index.params == {"m": 32}
    assert config.engine.options == {"delta_limit": 4096}
    assert config.models.tables["clip"].options == {"offline": True}


def test_every_flag_on_the_page_sets_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, tmp_path)
    ran: list[Loaded] = []
    monkeypatch.setattr(server_main, "_run", ran.append)
    values = {"--listen": "127.0.0.1:4711", "--data": "there", "--embedder": "clip"}
    values |= {"--model": "./some-model", "--device": "cuda:1", "--index": "exact"}
    values |= {"--engine": "other", "--log-level": "error", "--log-format": "json"}
    values |= {"--keys": "k", "--tls-certificate": "c", "--tls-key": "t", "--tls-client-ca": "a"}
    values |= {"--read-only": "", "--insecure": "", "--take-over": ""}
    on_page = {flag for *_, flags in settings().values() for flag in flags.split(", ") if flag}
    options = {p.opts[0] for p in all_commands()["lookalike serve"].params} - {"--help"}
    assert on_page == options - {"--config"} == set(values)
    command = ["serve", *(word for pair in values.items() for word in pair if word)]
    typer.main.get_command(server_main.app)(command, standalone_mode=False)
    shown = "\n".join(ran[0].lines(origin=True))
    for key, (*_, flag) in settings().items():
        if flag:
            name = re.escape(key.replace("NAME", '"some-model"')).replace('"', '"?')
            assert re.search(rf"^{name} = .*# flag$", shown, re.MULTILINE), key


def test_every_reason_is_on_the_page_with_a_cure() -> None:
    found = {cells[0].strip("`"): cells[-1] for cells in rows("errors.md") if len(cells) == 5}
    for name in (value.name for value in errors_pb2.ErrorReason.DESCRIPTOR.values):
        assert len(found[name.removeprefix("ERROR_REASON_")]) > 10, name


def public_methods() -> dict[str, Any]:
    return {
        name: method
        for name, method in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", public_methods())
def test_every_method_of_the_client_has_an_example(name: str) -> None:
    code = "\n".join(block.text for block in blocks(DOCS / "client.md", "python"))
    assert re.search(rf"\b(client|private)\.{name}\(", code), f"docs/client.md: {name}"
    whole = (DOCS / "client.md").read_text(encoding="utf-8")
    for parameter in list(inspect.signature(public_methods()[name]).parameters)[1:]:
        keyword_only = inspect.signature(public_methods()[name]).parameters[parameter].kind
        if keyword_only is inspect.Parameter.KEYWORD_ONLY:
            assert re.search(rf"\b{parameter}\b", whole), f"docs/client.md: {name}({parameter}=)"


def test_the_options_of_the_local_engine_are_on_the_page(tmp_path: Path) -> None:
    config = EngineConfig("owner", tmp_path, 2, Metric.COSINE, IndexSpec(), {"strange": 1})
    with pytest.raises(InvalidArgument) as caught:
        engines.resolve("local").open(config, None)  # type: ignore[arg-type]
    known = re.search(r"Known: (.*)\.", caught.value.message)
    assert known is not None
    named = {cells[0].strip("`") for cells in rows("backends.md") if len(cells) == 3}
    assert set(known[1].split(", ")) <= named


# ------------------------------------------------------- generated parts


def test_generated_parts_are_fresh(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate-docs", "--check"])
    generator().main()
    assert "nothing changed" in capsys.readouterr().out


@pytest.mark.parametrize("page", GENERATED)
def test_drift_is_found_and_mended(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in GENERATED:
        (tmp_path / name).write_text((DOCS / name).read_text(encoding="utf-8"))
    whole = (tmp_path / page).read_text()
    begin = whole.index("| --- |", whole.index("by scripts/generate-docs"))
    (tmp_path / page).write_text(whole[:begin] + "| - |" + whole[begin + 7 :])
    check = ["generate-docs", "--check", "--docs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", check)
    with pytest.raises(SystemExit, match=f"stale: {page}"):
        generator().main()
    monkeypatch.setattr(sys, "argv", ["generate-docs", "--docs", str(tmp_path)])
    generator().main()
    assert (tmp_path / page).read_text() == whole


# ------------------------------------------------------------- every page


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} is not there"
        assert there.is_relative_to(ROOT), f"{target} leads out of the project"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


STRANGE = re.compile(
    r"/work/|/root\b|/home/(?!user\b|you\b)\w|/tmp/\w|\.\./shared|\bsessions?\b|\bhelpers?\b|the brief"
)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_project_speaks_of_itself_alone(page: Path) -> None:
    assert not STRANGE.findall(page.read_text(encoding="utf-8"))


def test_every_page_is_on_the_map() -> None:
    there = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in there, page.name


def test_variables_of_the_command_line_do_not_stop_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, tmp_path)
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    said = re.search(r"^Not settings of the server: (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert said is not None
    names = re.findall(r"`(LOOKALIKE_\w+)`", said[1])
    assert {"LOOKALIKE_ADDRESS", "LOOKALIKE_TRACEBACK"} <= set(names)
    for name in names:
        monkeypatch.setenv(name, "1")
    assert load(Flags({})).config.default_model() == "builtin"
