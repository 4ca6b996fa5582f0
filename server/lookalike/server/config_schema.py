"""What can be set: the sections of the configuration, their defaults and their rules."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.types import (
    DEFAULT_TARGET_RECALL,
    LEAST_TARGET_RECALL,
    MOST_TARGET_RECALL,
    Algorithm,
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
)
from lookalike.server.limits import Limits, most
from lookalike.server.model_pictures import calibration_pictures
from lookalike.server.models import ModelConfig

BUILTIN = "builtin"
CACHE = "models"
"""The folder in the data folder for what embedders keep; all of it can be made again."""
PREFIX = "LOOKALIKE_"
_ALGORITHMS: dict[str, type[Algorithm]] = {
    "flat": FlatParams,
    "hnsw": HnswParams,
    "ivf": IvfParams,
}


class ConfigError(Exception):
    """A configuration that cannot be used; the message has one line for each fault."""


def hint(name: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about a name that is not known."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {listed(known)}"


def listed(names: Sequence[str]) -> str:
    """Return names as a list for people."""
    return ", ".join(names) or "none"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _listen_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise ValueError('must be HOST:PORT, as "127.0.0.1:50051" (port 0: any free one)')
    return text


class ServerSection(_Section):
    """How the server is reached, and how it shares its time."""

    listen: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:50051"
    """HOST:PORT; port 0 takes any free one."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 64
    """Searches answered at the same time at most, and again as many other calls; more are refused
    with OVERLOADED. Streams are extra."""
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long a stopping server waits for what is under way."""
    notice_s: Annotated[float, Field(ge=0, le=600)] = 0.1
    """How long a server that was asked to stop goes on as before while its health says
    NOT_SERVING: what a load balancer needs to notice."""
    take_over: bool = False
    """Take the place of the server that uses the data folder, if there is one: it ends what is
    under way and leaves, and no search fails."""
    default_deadline_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long a call may take whose client set no deadline."""
    max_wait_ms: Annotated[float, Field(gt=0, le=60_000)] = 25.0
    """How long a search may wait for those before it once there are more than `threads`: others are
    refused with OVERLOADED. Searches that take longer than this by themselves may wait twice as
    long as they take."""
    message_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long the bytes of a request may take to come, and an answer to be taken. Whoever is
    slower is cut off."""
    idle_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """How long an upload or a stream of searches may send nothing while nothing is under way."""
    handshake_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How long a connection may take until it speaks HTTP/2, TLS included."""
    connection_idle_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """How long a connection without calls stays open. Clients connect again by themselves."""
    keepalive_s: Annotated[float, Field(ge=1, le=86_400)] = 20.0
    """A connection that has been silent for so long is asked whether it is still there, and ended
    if there is no answer for half as long."""


class DataSection(_Section):
    """Where everything is kept."""

    path: Annotated[Path, AfterValidator(Path.expanduser)]
    """The data folder; made if it is not there. One server at a time. By default
    $XDG_DATA_HOME/lookalike."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    """Bytes of its disk that stay free, so that items can always be deleted; whatever would
    store more is refused with DISK_FULL. 0: none."""
    read_only: bool = False
    """Serve what is there and write nothing into the folder, which may be mounted read-only."""


def _expanded(text: str) -> str:
    return str(Path(text).expanduser()) if text else ""


_File = Annotated[str, AfterValidator(_expanded)]


class AccessSection(_Section):
    """Who may call. Without keys, whoever reaches the server may do everything."""

    keys_file: _File = ""
    """The file of API keys, which `lookalike keys create` makes. Callers need one of them.
    It is read again when it changes."""
    insecure: bool = False
    """Listen on an address that other machines reach without TLS and keys."""


class TlsSection(_Section):
    """Encryption. The files are in PEM, and read again when they change."""

    certificate: _File = ""
    """The server's certificate, then those that lead to a root. With `key`: speak TLS."""
    key: _File = ""
    """The certificate's private key, without a password."""
    client_ca: _File = ""
    """Roots of certificates that clients must have (mutual TLS)."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key come together")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca needs certificate and key")
        return self


class ModelTable(_Section):
    """One model."""

    embedder: str = BUILTIN
    """"builtin", "clip", or the name of a plug-in."""
    model: str = ""
    """A folder with a checkpoint, or a name on the hub."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N"."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Compute threads; 0 = the number of cores."""
    runtime: str = ""
    """Of "clip": what computes, "auto", "torch" or "openvino"; empty = "auto"."""
    precision: str = ""
    """Of "clip": "auto", "fp32", "bf16", "fp16" or "int8"; empty = "auto"."""
    calibration: _File = ""
    """A folder of photographs that precision "int8" is calibrated with, once."""
    cache: _File = ""
    """Where converted models and what was measured are kept; empty = in the data folder."""
    options: dict[str, JsonValue] = {}
    """Settings that only this embedder knows."""

    def config(self, data: Path, *, read_only: bool) -> ModelConfig:
        """Return it as the domain wants it."""
        own = {"runtime": self.runtime, "precision": self.precision}
        calibration = None
        if self.calibration:
            calibration = partial(calibration_pictures, Path(self.calibration))
        options = EmbedderOptions(
            self.model,
            self.device,
            self.threads,
            {**self.options, **{name: value for name, value in own.items() if value}},
            cache=Path(self.cache) if self.cache else data / CACHE,
            cache_read_only=read_only and not self.cache,
            calibration=calibration,
        )
        return ModelConfig(self.embedder, options)


class ModelsSection(BaseModel):
    """The models by name, one table each; "builtin" is always there besides."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, ModelTable] = Field(init=False)

    default: str = ""
    """The model used where a request names none. Empty: the only other one, or "builtin"."""

    @property
    def tables(self) -> dict[str, ModelTable]:
        """The models that are configured, by name."""
        return dict(self.__pydantic_extra__ or {})


class IndexSection(_Section):
    """The kind of index of collections that do not say otherwise."""

    backend: str = "auto"
    """"auto", "exact", "faiss", "hnswlib", or the name of a plug-in."""
    algorithm: Literal["", "flat", "hnsw", "ivf"] = ""
    """Empty: what the backend thinks best."""
    params: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Of "hnsw": m, ef_construction, ef_search; of "ivf": nlist, nprobe."""
    options: dict[str, JsonValue] = {}
    """Settings that only this backend knows."""
    target_recall: Annotated[float, Field(ge=LEAST_TARGET_RECALL, le=MOST_TARGET_RECALL)] = (
        DEFAULT_TARGET_RECALL
    )
    """The share of the true ten nearest that searches have to find."""

    def spec(self) -> IndexSpec:
        """Return it as the domain wants it. Raises ConfigError."""
        kind = _ALGORITHMS.get(self.algorithm)
        known = [f.name for f in fields(kind)] if kind else []
        for name in self.params:
            if name not in known:
                place = f"algorithm {self.algorithm!r}" if kind else "no algorithm"
                raise ConfigError(f"index.params.{name}: {place} has {listed(known)}.")
        algorithm = kind(**self.params) if kind else None
        target = self.target_recall if self.target_recall != DEFAULT_TARGET_RECALL else 0.0
        return IndexSpec(self.backend, algorithm, self.options, target_recall=target)


class EngineSection(_Section):
    """What keeps the indexes."""

    name: str = "local"
    """"local", or the name of a plug-in."""
    options: dict[str, JsonValue] = {}
    """Settings that only this engine knows."""


class DecodeSection(_Section):
    """Where pictures are decoded: in processes that one may end without harm to the server."""

    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = "auto"
    """Processes at most; "auto": one for each core. 0: in the server itself, behind the limits
    alone, where all pictures are your own."""
    here_pixels: Annotated[int, Field(ge=0)] = 2**20
    """A PNG or a plain JPEG of at most so many pixels is decoded in the server all the same: the
    way to a process and back costs as much as the work. 0: none."""


class CacheSection(_Section):
    """Vectors of pictures that were embedded before, so that none is embedded twice: whatever
    their id and collection, as long as model and file are the same. In the data folder; it may
    be removed while no server runs."""

    max_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    """Bytes on disk at most, 2 KB a picture for a model of 512 dimensions; what was not asked for
    the longest goes first. 0: nothing is kept, and what was is removed."""


class LogSection(_Section):
    """What is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    words: bool = False
    """Say what exceptions say, with Python's tracebacks. Without, the log has their names and
    places only: their words may hold what callers sent, paths and other secrets."""


def _known_limits(value: Any) -> Any:
    """Check the keys of limits, which are those of the one table of limits."""
    if isinstance(value, Mapping):
        known = [f.name for f in fields(Limits)]
        for key, number in value.items():
            if key not in known:
                raise ValueError(f"{key} is not known{hint(key, known)}")
            if isinstance(number, bool) or not str(number).isdecimal() or int(number) < 1:
                raise ValueError(f"{key} must be a whole number of at least 1, not {number!r}")
            if int(number) > most(key):
                raise ValueError(f"{key} can be {most(key)} at most, not {number}")
    return value


class Config(BaseSettings):
    """Everything that can be set, section by section."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )

    server: ServerSection = ServerSection()
    access: AccessSection = AccessSection()
    tls: TlsSection = TlsSection()
    data: DataSection
    models: ModelsSection = ModelsSection()
    index: IndexSection = IndexSection()
    engine: EngineSection = EngineSection()
    limits: Annotated[Limits, BeforeValidator(_known_limits)] = Limits()
    decode: DecodeSection = DecodeSection()
    cache: CacheSection = CacheSection()
    log: LogSection = LogSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load` has put together, which knows whence each value came."""
        return (init_settings,)

    def model_configs(self) -> dict[str, ModelConfig]:
        """Return the models by name, "builtin" among them."""
        data = self.data
        configs = {
            name: table.config(data.path, read_only=data.read_only)
            for name, table in self.models.tables.items()
        }
        return {BUILTIN: ModelConfig(BUILTIN), **configs}

    def default_model(self) -> str:
        """Return the name of the model used where none is named. Raises ConfigError."""
        known = list(self.model_configs())
        default = self.models.default
        if default:
            if default not in known:
                raise ConfigError(
                    f"models.default: there is no model {default!r}{hint(default, known)}"
                )
            return default
        others = [name for name in known if name != BUILTIN]
        if len(others) > 1:
            raise ConfigError(f"models.default: say which of {listed(known)} is the default.")
        return others[0] if others else BUILTIN
