"""A real server full of secrets, each of them a word that is nowhere else, and who listens.

The installation, the data folder and the files of keys and TLS lie in folders with such
names; the environment, a key, metadata, pictures, queries and a plug-in's own words hold
others. `Sink` keeps all that callers are told when calls fail; the server's log is a file.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from certificates import Authority
from lookalike.client.local_server import READY_LINE
from lookalike.server.keys import Scope, add_key, make_key

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("protos", "backends", "server", "clients")
KINDS = [
    "key",
    "note",
    "environment",
    "option",
    "text",
    "othertext",
    "metadata",
    "metakey",
    "filter",
    "picture",
    "exif",
    "item",
    "installation",
    "data",
    "files",
    "pluginwords",
    "header",
    "deadpath",
]
FORBIDDEN = {
    "a traceback": re.compile(r"Traceback \(|File \"|, line \d+, in"),
    "a path": re.compile(r"(?<![\w.:/])/(?:tmp|root|home|usr|opt|work|var|etc|proc|srv|lib)/"),
    "an address in memory": re.compile(r"\b0x[0-9a-f]{6,}"),
    "a private key": re.compile(r"PRIVATE KEY"),
}
PLUG_IN = """
import os
import numpy as np
from lookalike.backends.embed.base import Embedder, TextEmbedder, TextVectors

class Broken(TextEmbedder):
    dim = 8
    decode_side = 64

    def __init__(self, options):
        self.when = options.extra["when"]
        self.words = f"{{WORDS}} {{options}} {{os.environ}} {{__file__}} {{object()}}"
        self.space = "broken-" + self.when

    @classmethod
    def open(cls, options):
        made = cls(options)
        made.fail("open")
        return made

    def fail(self, when, more=""):
        if self.when == when:
            try:
                raise OSError(2, self.words, __file__)
            except OSError as error:
                raise ValueError(f"{{when}}: {{more!r}} {{self.words}}") from error

    def prepare(self, image):
        self.fail("prepare", image.tobytes()[:60])
        return np.ones(8, np.float32)

    def embed_prepared(self, batch):
        self.fail("embed", batch)
        if self.when == "shape":
            return np.ones((len(batch) + 1, 8), np.float32)
        return np.stack(batch)

    def embed_texts(self, texts):
        self.fail("texts", texts)
        return TextVectors(np.ones((len(texts), 8), np.float32), [False] * len(texts))

WORDS = {words!r}
"""
WHENS = ("open", "prepare", "embed", "shape", "texts")


@dataclass
class Sink:
    """What callers were told, and what of it must not be there."""

    words: dict[str, str] = field(default_factory=lambda: {k: planted(k) for k in KINDS})
    """The canaries by kind."""
    told: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)

    def hear(self, error: grpc.RpcError) -> None:
        """Keep all that a failed call brings."""
        found: Any = error
        parts = [found.details(), found.debug_error_string()]
        for metadata in (found.initial_metadata(), found.trailing_metadata()):
            for key, value in metadata or ():
                text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                parts.append(f"{key}: {text}")
        self.told.append("\n".join(map(str, parts)))
        self.reasons.add(found.code().name)
        self.reasons.update(re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)+\b", self.told[-1]))

    def hear_errors(self, message: Message) -> None:
        """Keep the errors in an answer, at any depth."""
        if message.DESCRIPTOR.full_name == "lookalike.v1.Error":
            self.told.append(str(message))
            self.reasons.add(message.reason)  # type: ignore[attr-defined]
            return
        for kind, value in message.ListFields():
            if kind.message_type is None or kind.message_type.GetOptions().map_entry:
                continue
            for one in value if kind.is_repeated else (value,):
                self.hear_errors(one)

    def hits(self, text: str, allowed: tuple[str, ...] = ()) -> list[str]:
        """Return what must not be in a text and is, each with what is around it."""
        found = []
        for kind, word in self.words.items():
            if kind not in allowed and (at := text.find(word)) >= 0:
                found.append(f"{kind}: {text[max(0, at - 200) : at + 60]!r}")
        for what, pattern in FORBIDDEN.items():
            if match := pattern.search(text):
                found.append(f"{what}: {text[max(0, match.start() - 200) : match.end() + 60]!r}")
        return found


def planted(kind: str) -> str:
    return f"zq{kind}{secrets.token_hex(4)}"


@dataclass
class Running:
    """A server with its secrets, and a channel to it."""

    sink: Sink
    folder: Path
    data: Path
    keys_file: Path
    certificate: Path
    admin: str
    """A key that may do everything."""
    reader: str
    """A key that may read another collection."""
    process: subprocess.Popen[str]
    channel: grpc.Channel

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def secrets(self) -> dict[str, str]:
        """Return more that must not be told: keys and the TLS key, line by line."""
        pem = self.certificate.with_suffix(".key").read_text().splitlines()[1:-1]
        keys = {"admin": self.admin.split("_")[2], "reader": self.reader.split("_")[2]}
        return {**keys, **{f"tls{i}": line for i, line in enumerate(pem) if len(line) > 8}}


@contextmanager
def serving(tmp: Path, style: str, *more: str) -> Iterator[Running]:
    """Run a server with a canary in each place; its log, of level debug, in `style`."""
    sink = Sink()
    words = sink.words
    installed = _install(tmp / words["installation"], words["pluginwords"])
    files = tmp / words["files"]
    pair = Authority(files / "ca").sign("server")
    keys_file = files / "keys"
    texts = {}
    for name, scope, collections in (("admin", Scope.ADMIN, ()), ("reader", Scope.READ, ("own",))):
        texts[name], key = make_key(
            scope, now=time.time(), collections=collections, note=words["note"]
        )
        add_key(keys_file, key)
    data = tmp / words["data"] / "d"
    data.parent.mkdir()
    config = files / "lookalike.toml"
    config.write_text(_config(words, tmp))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("LOOKALIKE_")},
        "PYTHONPATH": os.pathsep.join(map(str, installed)),
        "SOMEBODYS_TOKEN": words["environment"],
    }
    command = [sys.executable, "-m", "lookalike.server", "serve", "--data", str(data)]
    command += ["--listen", "127.0.0.1:0", "--config", str(config), "--keys", str(keys_file)]
    command += ["--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)]
    command += ["--log-level", "debug", "--log-format", style, *more]
    with (tmp / "log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=tmp
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = READY_LINE.match(line)
        assert match, line + (tmp / "log").read_text()
        roots = (files / "ca" / "ca.pem").read_bytes()
        with grpc.secure_channel(match["address"], grpc.ssl_channel_credentials(roots)) as channel:
            yield Running(
                sink, tmp, data, keys_file, pair.certificate, texts["admin"], texts["reader"],
                process, channel,
            )  # fmt: skip
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _install(folder: Path, words: str) -> list[Path]:
    """Copy the product into a folder with a name, and a plug-in beside it."""
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "static")
        )
    plug_in = folder / "plugins"
    about = plug_in / "broken-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lookalike.embedders]\nbroken = broken_one:Broken\n")
    (plug_in / "broken_one.py").write_text(PLUG_IN.format(words=words))
    return [plug_in, *(folder / room for room in ROOMS)]


def _config(words: dict[str, str], tmp: Path) -> str:
    gone = tmp / words["deadpath"] / "model"
    lines = ['[models]\ndefault = "builtin"', f'[models.gone]\nembedder = "clip"\nmodel = "{gone}"']
    for when in WHENS:
        options = f'{{ when = "{when}", token = "{words["option"]}" }}'
        lines.append(f'[models.{when}]\nembedder = "broken"\noptions = {options}')
    return "\n".join(lines) + "\n"
