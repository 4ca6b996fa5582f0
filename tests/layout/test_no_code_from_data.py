"""No data becomes code and no process is forked: nothing in the product could do so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("server", "backends", "clients", "protos", "training", "scripts", "bench", "examples")
MODULES = {
    "pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle",
    "pickletools", "jsonpickle", "imp", "pty", "commands",
}  # fmt: skip
"""Not to be imported at all."""
CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile",
    "torch.load", "torch.package.PackageImporter", "torch.hub.load", "torch.jit.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader",
    "yaml.UnsafeLoader", "tempfile.mktemp", "os.fork", "os.forkpty", "os.system", "os.popen",
    "os.posix_spawn", "subprocess.getoutput", "subprocess.getstatusoutput",
    "code.interact", "code.InteractiveInterpreter", "runpy.run_path",
    "multiprocessing.Process", "multiprocessing.Pool", "multiprocessing.Manager",
    "concurrent.futures.ProcessPoolExecutor", 
    "pandas.read_pickle", "numpy.lib.npyio.load_pickle",
}  # fmt: skip
"""Not to be called, nor handed on, under whatever name they were imported."""
NEVER_TRUE = {"allow_pickle", "shell", "trust_remote_code"}
"""Arguments that may only be given as False."""
METHODS = {"get_context", "set_start_method"}
"""Of multiprocessing: only with "spawn"."""


def sources() -> list[Path]:
    """Return every Python file of the product, those without a suffix too."""
    found = []
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            if path.suffix == ".py" or (not path.suffix and _is_python(path)):
                found.append(path)
    return found


def _is_python(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(100)
    return first.startswith(b"#!") and b"python" in first


def offences(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) of all that is not allowed in a module."""
    tree = ast.parse(text)
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in MODULES:
                    yield node.lineno, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield node.lineno, f"imports {node.module}"
        elif isinstance(node, ast.Name | ast.Attribute):
            dotted = _dotted(node, names)
            if dotted in CALLS and isinstance(node.ctx, ast.Load):
                yield node.lineno, f"uses {dotted}"
        elif isinstance(node, ast.Call):
            yield from _of_call(node, names)


def _of_call(node: ast.Call, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    for keyword in node.keywords:
        if keyword.arg in NEVER_TRUE and not _is_constant(keyword.value, False):
            yield node.lineno, f"gives {keyword.arg}"
        if keyword.arg == "weights_only" and not _is_constant(keyword.value, True):
            yield node.lineno, "gives weights_only"
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    name = name or _dotted(node.func, names).rpartition(".")[2]
    if name in METHODS and not (node.args and _is_constant(node.args[0], "spawn")):
        yield node.lineno, f"{name} without spawn"
    called = _dotted(node.func, names)
    if called == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
        dotted = f"{_dotted(node.args[0], names)}.{node.args[1].value!s}"
        if dotted in CALLS:
            yield node.lineno, f"uses {dotted}"
    if called in ("importlib.import_module", "importlib.__import__"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and str(first.value).split(".")[0] in MODULES:
            yield node.lineno, f"imports {first.value!s}"


def _is_constant(node: ast.expr, value: object) -> bool:
    return (
        isinstance(node, ast.Constant) and node.value == value and type(node.value) is type(value)
    )


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (name here, name there) of whatever is imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return {"np": "numpy"}.get(node.id, names.get(node.id, node.id))
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return "?"


def test_the_product_makes_no_code_of_data_and_forks_nothing() -> None:
    files = sources()
    assert len(files) > 150, "not all of the product was read"
    found = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in files
        for line, what in offences(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import marshal",
        "import shelve",
        "from joblib import load",
        "importlib.import_module('pickle')",
        "from importlib import import_module; import_module('marshal')",
        "eval('1')",
        "exec('x = 1')",
        "compile('1', 'f', 'eval')",
        "run = eval",
        "map(eval, lines)",
        "__import__(name)",
        "import builtins; builtins.exec('1')",
        "import torch; torch.load('f')",
        "import torch as t; t.load('f')",
        "from torch import load; load('f')",
        "from torch import load as read; read('f')",
        "import torch; getattr(torch, 'load')('f')",
        "import torch; torch.jit.load('f')",
        "import yaml; yaml.load('x', Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load; unsafe_load('x')",
        "np.load('f', allow_pickle=True)",
        "np.load('f', allow_pickle=flag)",
        "read('f', weights_only=False)",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import os; os.system('ls')",
        "from os import popen; popen('ls')",
        "import tempfile; tempfile.mktemp()",
        "from tempfile import mktemp; mktemp()",
        "import os; os.fork()",
        "from os import fork; fork()",
        "import multiprocessing; multiprocessing.Process(target=f)",
        "import multiprocessing as mp; mp.Pool()",
        "import multiprocessing as mp; mp.get_context('fork')",
        "import multiprocessing as mp; mp.get_context()",
        "from multiprocessing import get_context; get_context('forkserver')",
        "from concurrent.futures import ProcessPoolExecutor; ProcessPoolExecutor()",
        "AutoModel.from_pretrained(m, trust_remote_code=True)",
        "AutoModel.from_pretrained(m, trust_remote_code=extra.get('trust'))",
    ],
)
def test_the_rule_sees(line: str) -> None:
    assert list(offences(line)), line


@pytest.mark.parametrize(
    "line",
    [
        "import re; re.compile('x')",
        "model.eval()",
        "import torch; torch.compile(model)",
        "np.load('f', allow_pickle=False)",
        "import subprocess; subprocess.run(['ls'])",
        "import multiprocessing as mp; mp.get_context('spawn')",
        "AutoModel.from_pretrained(m, trust_remote_code=False)",
        "connection.execute('SELECT 1')",
    ],
)
def test_the_rule_leaves_alone(line: str) -> None:
    assert not list(offences(line)), line
