"""Where the configuration comes from, and whence each of its values came.

A value is taken from the first of these that has it: flags, environment
(LOOKALIKE_SECTION__KEY), the file named by --config or LOOKALIKE_CONFIG,
./lookalike.toml, $XDG_CONFIG_HOME/lookalike/config.toml, the defaults of
`config_schema`. The only module of the server that reads the environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from lookalike.server.config_schema import (
    BUILTIN,
    PREFIX,
    Config,
    ConfigError,
    ModelTable,
    hint,
    listed,
)
from lookalike.server.domain import NO_MODEL

__all__ = ["Config", "ConfigError", "Flags", "Loaded", "is_loopback", "load", "model_name"]

_CONFIG_VARIABLE = "LOOKALIKE_CONFIG"
_CLIENT_VARIABLES = frozenset(
    {
        _CONFIG_VARIABLE,
        "LOOKALIKE_ADDRESS",
        "LOOKALIKE_API_KEY",
        "LOOKALIKE_API_KEY_FILE",
        "LOOKALIKE_CA",
        "LOOKALIKE_CLIENT_CERTIFICATE",
        "LOOKALIKE_CLIENT_KEY",
        "LOOKALIKE_SERVER_NAME",
        "LOOKALIKE_SHARED",
        "LOOKALIKE_TOKEN_FILE",
        "LOOKALIKE_TRACEBACK",
    }
)
"""Variables of the client and of the developers; not settings of the server."""
_OF_KUBERNETES = re.compile(
    r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)=|_PORT=\w+://|_PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?="
)
"""What each container gets for each service of its namespace, named after the service: in
one with a service "lookalike", LOOKALIKE_SERVICE_HOST and LOOKALIKE_PORT=tcp://10.0.0.1:50051."""
_SECRET = re.compile(r"(token|secret|password|credential|api_?key)s?$", re.IGNORECASE)
_USER_INFO = re.compile(r"//[^/@\s]+@")
_Path = tuple[str, ...]
"""The way to a value: ("server", "listen")."""


@dataclass(frozen=True)
class Loaded:
    """A configuration, and whence each of its values came."""

    config: Config
    origins: Mapping[_Path, str]

    def lines(self, *, origin: bool = False) -> Iterator[str]:
        """Yield `section.key = value` for every value, secrets hidden; with `origin`, whence."""
        values = self.config.model_dump(mode="json", exclude={"limits"})
        values["limits"] = asdict(self.config.limits)
        rows = [
            (path, f"{_dotted(path)} = {_shown(path[-1], value)}") for path, value in _flat(values)
        ]
        width = max(len(row) for _, row in rows)
        for path, row in rows:
            whence = self.origins.get(path, "default")
            yield f"{row.ljust(width)}  # {whence}" if origin else row


@dataclass(frozen=True)
class Flags:
    """What the command line says; None = nothing."""

    values: Mapping[_Path, str | None]
    """By path: {("server", "listen"): "127.0.0.1:0"}."""
    embedder: str | None = None
    model: str | None = None
    device: str | None = None


def load(flags: Flags, config_file: Path | None = None) -> Loaded:
    """Read the configuration. Raises ConfigError with a line for each fault."""
    layers = [_environment(), *_files(config_file), _defaults()]
    below = [layer.values for layer in layers]
    layers.insert(0, _Layer(_from_flags(flags, below), "flag", {}))
    merged: dict[str, Any] = {}
    origins: dict[_Path, str] = {}
    for layer in reversed(layers):
        for path, value in _flat(layer.values):
            _put(merged, path, value)
            origins[path] = layer.names.get(path, layer.origin)
    try:
        config = Config(**merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_faults(error, origins))) from None
    config.index.spec()
    config.default_model()
    return Loaded(config, origins)


def model_name(embedder: str, model: str) -> str:
    """Return the name of a model given by flags: "openai/CLIP-ViT" is "clip-vit"."""
    last = Path(model).resolve().name if model.startswith((".", "/")) else Path(model).name
    name = re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")
    if not name or embedder == BUILTIN:
        return embedder
    return f"{embedder}-{name}" if name in (BUILTIN, NO_MODEL, "default") else name


def is_loopback(listen: str) -> bool:
    """Say whether only this machine can reach the address."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ------------------------------------------------------------------- layers


@dataclass(frozen=True)
class _Layer:
    """Values from one place, and what to call the place; `names` where one has its own name."""

    values: dict[str, Any]
    origin: str
    names: Mapping[_Path, str]


def _from_flags(flags: Flags, below: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path, value in flags.values.items():
        if value is not None:
            _put(values, path, value)
    name = None
    if flags.embedder is not None or flags.model is not None:
        embedder = flags.embedder or "clip"
        name = model_name(embedder, flags.model or "")
        _put(values, ("models", "default"), name)
        if name != BUILTIN:
            _put(values, ("models", name, "embedder"), embedder)
            _put(values, ("models", name, "model"), flags.model or "")
    if flags.device is not None:
        name = name or _default_below(below)
        if name == BUILTIN and flags.device not in ("auto", "cpu"):
            raise ConfigError("--device: the builtin embedder runs on the CPU only.")
        if name != BUILTIN:
            _put(values, ("models", name, "device"), flags.device)
    return values


def _default_below(below: Sequence[Mapping[str, Any]]) -> str:
    """Return the default model of what the flags are laid over."""
    merged: dict[str, Any] = {}
    for values in reversed(below):
        for path, value in _flat(values):
            _put(merged, path, value)
    models = merged.get("models", {})
    tables = [name for name, table in models.items() if isinstance(table, dict)]
    return str(models.get("default") or next(iter(tables), BUILTIN))


def _defaults() -> _Layer:
    """Return the one default that depends on the environment."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return _Layer({"data": {"path": str(Path(base) / "lookalike")}}, "default", {})


def _environment() -> _Layer:
    _check_variables()
    try:
        values = EnvSettingsSource(Config)()
    except SettingsError as error:
        raise ConfigError(f"environment: {_broken_json() or error}") from None
    variables = {name.upper(): name for name in os.environ}
    names = {}
    for path, _ in _flat(values):
        whole = PREFIX + path[0].upper()  # a section as one JSON object
        names[path] = variables.get(PREFIX + "__".join(path).upper(), whole)
    return _Layer(values, "environment", names)


def _broken_json() -> str:
    """Name the variable whose table is not JSON, which pydantic does not."""
    for name, value in sorted(os.environ.items()):
        if not name.upper().startswith(PREFIX) or not value.lstrip().startswith("{"):
            continue
        try:
            json.loads(value)
        except ValueError as error:
            return f"{name} is not JSON: {error}"
    return ""


def _check_variables() -> None:
    """Refuse LOOKALIKE_ variables that set nothing; pydantic only knows wrong keys."""
    sections = list(Config.model_fields)
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX) or name in _CLIENT_VARIABLES:
            continue
        if _OF_KUBERNETES.search(f"{name}={os.environ[name]}"):
            continue
        section, delimiter, key = name[len(PREFIX) :].lower().partition("__")
        if section in sections:
            continue
        cure = f"known: {listed([f'{PREFIX}{known.upper()}__' for known in sections])}"
        if near := difflib.get_close_matches(section, sections, n=1):
            cure = f"did you mean {PREFIX}{(near[0] + delimiter + key).upper()}?"
        raise ConfigError(f"{name}: there is no section {section!r}; {cure}")


def _files(named: Path | None) -> list[_Layer]:
    layers = []
    if named is None and (variable := os.environ.get(_CONFIG_VARIABLE)):
        named = Path(variable)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: there is no such file.")
        layers.append(_file(named))
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    for path in (Path("lookalike.toml"), Path(home) / "lookalike" / "config.toml"):
        if os.path.isfile(path):  # a home that may not be looked into has none
            layers.append(_file(path))
    return layers


def _file(path: Path) -> _Layer:
    try:
        with path.open("rb") as file:
            return _Layer(tomllib.load(file), str(path), {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}.") from None


# --------------------------------------------------------- values and faults


def _flat(values: Mapping[str, Any], above: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Yield the leaves of nested tables by their paths; an empty table is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, (*above, key))
        else:
            yield (*above, key), value


def _put(values: dict[str, Any], path: _Path, value: Any) -> None:
    *tables, key = path
    for table in tables:
        inner = values.get(table)
        if not isinstance(inner, dict):
            inner = values[table] = {}
        values = inner
    if not (isinstance(value, Mapping) and isinstance(values.get(key), dict)):
        values[key] = value


def _dotted(path: _Path) -> str:
    return ".".join(f'"{part}"' if "." in part else part for part in path)


def _faults(error: ValidationError, origins: Mapping[_Path, str]) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        path = tuple(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            what = "key" if len(path) > 1 else "section"
            message = f"there is no such {what}{hint(path[-1], _known(path[:-1]))}"
        whence = next((w for p, w in origins.items() if p[: len(path)] == path), "")
        yield f"{_dotted(path)}: {message}{f' (from {whence})' if whence else ''}"


def _known(path: _Path) -> list[str]:
    """Return the keys of the table at a path."""
    model: Any = Config
    for part in path:
        found = model.model_fields.get(part)
        model = found.annotation if found is not None else ModelTable
    return list(model.model_fields)


def _shown(key: str, value: Any) -> str:
    """Write a value as TOML does, but no secret."""
    if _SECRET.search(key) and value not in ("", None):
        return '"***"'
    match value:
        case bool():
            return str(value).lower()
        case str():
            return (
                '"'
                + _USER_INFO.sub("//***@", value).replace("\\", "\\\\").replace('"', '\\"')
                + '"'
            )
        case Mapping():
            return "{}"
        case list():
            return "[" + ", ".join(_shown(key, entry) for entry in value) + "]"
    return str(value)
