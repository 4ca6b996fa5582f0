from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path

import pytest

from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.errors import ModelInvalid
from lookalike.backends.types import HnswParams, IndexSpec
from lookalike.server import logs
from lookalike.server.config import ConfigError, Flags, is_loopback, load, model_name
from lookalike.server.limits import Limits
from lookalike.server.models import ModelConfig

NOTHING = Flags({})
LISTEN = ("server", "listen")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the home and the working folder, with no settings anywhere."""
    import os

    for name in os.environ:
        if name.startswith("LOOKALIKE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(flags: Flags = NOTHING, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, file)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_any_settings_the_defaults_hold(home: Path) -> None:
    config = load(NOTHING).config
    assert config.server.listen == "127.0.0.1:50051"
    assert config.data.path == home / ".local/share/lookalike"
    assert config.limits == Limits()
    assert config.index.spec() == IndexSpec()
    assert config.default_model() == "builtin"
    assert config.model_configs() == {"builtin": ModelConfig("builtin")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('certificate = "c"', "certificate and key come together"),
        ('key = "k"', "certificate and key come together"),
        ('client_ca = "a"', "client_ca needs certificate and key"),
    ],
)
def test_half_of_tls_is_refused(home: Path, text: str, said: str) -> None:
    assert said in refusal(file=write(home / "tls.toml", f"[tls]\n{text}\n"))


def test_files_of_keys_and_tls_may_be_below_home(home: Path) -> None:
    text = '[access]\nkeys_file = "~/k"\n[tls]\ncertificate = "~/c"\nkey = "t"\n'
    config = load(NOTHING, write(home / "own.toml", text)).config
    assert config.access.keys_file == str(home / "k")
    assert (config.tls.certificate, config.tls.key) == (str(home / "c"), "t")


def test_the_data_folder_follows_xdg(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "share"))
    loaded = load(NOTHING)
    assert loaded.config.data.path == home / "share/lookalike"
    assert loaded.origins["data", "path"] == "default"


def test_each_source_hides_those_below_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def port(loaded_from: Flags = NOTHING, file: Path | None = None) -> tuple[str, str]:
        loaded = load(loaded_from, file)
        return loaded.config.server.listen.rpartition(":")[2], loaded.origins.get(LISTEN, "default")

    def toml(number: int) -> str:
        return f'[server]\nlisten = "127.0.0.1:{number}"\n'

    assert port() == ("50051", "default")
    user = write(home / ".config/lookalike/config.toml", toml(1))
    assert port() == ("1", str(user))
    write(home / "lookalike.toml", toml(2))
    assert port() == ("2", "lookalike.toml")
    named = write(home / "named.toml", toml(3))
    monkeypatch.setenv("LOOKALIKE_CONFIG", str(named))
    assert port() == ("3", str(named))
    flagged = write(home / "flagged.toml", toml(4))
    assert port(file=flagged) == ("4", str(flagged))
    monkeypatch.setenv("LOOKALIKE_SERVER__LISTEN", "127.0.0.1:5")
    assert port(file=flagged) == ("5", "LOOKALIKE_SERVER__LISTEN")
    assert port(Flags({LISTEN: "127.0.0.1:6"}), flagged) == ("6", "flag")


def test_sources_are_merged_key_by_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".config/lookalike/config.toml", "[server]\ngrace_s = 1\nthreads = 2\n")
    write(home / "lookalike.toml", "[server]\nthreads = 3\n[limits]\nmax_uploads = 4\n")
    monkeypatch.setenv("LOOKALIKE_LIMITS__MAX_BATCH_SIZE", "5")
    config = load(NOTHING).config
    assert (config.server.grace_s, config.server.threads) == (1, 3)
    assert config.limits == Limits(max_uploads=4, max_batch_size=5)


@pytest.mark.parametrize("field", [f.name for f in fields(Limits)])
def test_every_limit_can_be_set(field: str, home: Path) -> None:
    path = write(home / "a.toml", f"[limits]\n{field} = 77\n")
    assert getattr(load(NOTHING, path).config.limits, field) == 77


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[servre]\nx = 1", "servre: there is no such section; did you mean 'server'?"),
        (
            '[server]\nlisten = "a:1"\nlisen = "b"',
            "server.lisen: there is no such key; did you mean",
        ),
        ("[limits]\nmax_uplaods = 1", "max_uplaods is not known; did you mean 'max_uploads'?"),
        ("[limits]\nmax_uploads = 0", "max_uploads must be a whole number of at least 1"),
        ('[server]\nlisten = "nonsense"', "must be HOST:PORT"),
        ('[server]\nlisten = "a:70000"', "must be HOST:PORT"),
        ("[server]\ngrace_s = -1", "server.grace_s"),
        ('[log]\nlevel = "loud"', "log.level"),
        (
            '[models.a]\ndevcie = "cpu"',
            "models.a.devcie: there is no such key; did you mean 'device'?",
        ),
        ('[models]\ndefault = "b"\n[models.big]', "there is no model 'b'"),
        ("[models.a]\n[models.b]", "say which of builtin, a, b is the default"),
        ('[index]\nalgorithm = "hnsw"\nparams = {nlist = 3}', "index.params.nlist"),
        ("[index]\nparams = {m = 3}", "no algorithm"),
        ("[server\n", "a.toml"),
        ("server = 3", "server"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, expected: str, home: Path) -> None:
    message = refusal(file=write(home / "a.toml", text))
    assert expected in message


def test_the_place_of_a_wrong_value_is_told(home: Path) -> None:
    path = write(home / "a.toml", "[server]\ngrace_s = -1")
    assert f"(from {path})" in refusal(file=path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LOOKALIKE_SERVRE__PORT", "did you mean LOOKALIKE_SERVER__PORT?"),
        ("LOOKALIKE_SERVER__LISTN", "server.listn: there is no such key; did you mean 'listen'?"),
        ("LOOKALIKE_WHATEVER", "there is no section 'whatever'; known: LOOKALIKE_SERVER__"),
        ("LOOKALIKE_SERVER", "environment: "),
        ("LOOKALIKE_PORT", "there is no section 'port'"),
    ],
)
def test_variables_that_set_nothing_are_refused(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    assert expected in refusal()


def test_the_clients_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDRESS", "TOKEN_FILE", "SHARED"):
        monkeypatch.setenv(f"LOOKALIKE_{name}", "x")
    load(NOTHING)


@pytest.mark.parametrize("service", ["LOOKALIKE", "LOOKALIKE_SERVER"])
def test_what_kubernetes_tells_of_a_service_is_no_setting(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "50051",
        "SERVICE_PORT_GRPC_MAIN": "50051",
        "PORT": "tcp://10.0.0.1:50051",
        "PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "PORT_50051_TCP_PROTO": "tcp",
        "PORT_50051_TCP_PORT": "50051",
        "PORT_50051_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(f"{service}_{name}", value)
    assert load(NOTHING).config.server.listen == "127.0.0.1:50051"


def test_a_variable_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_INDEX__PARAMS", '{"m": 32')
    assert "LOOKALIKE_INDEX__PARAMS is not JSON" in refusal()


def test_a_config_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no such file" in refusal(file=Path("nope.toml"))
    monkeypatch.setenv("LOOKALIKE_CONFIG", "nope.toml")
    assert "there is no such file" in refusal()


@pytest.mark.parametrize(
    ("embedder", "model", "expected"),
    [
        ("builtin", "", "builtin"),
        ("clip", "openai/clip-vit-base-patch32", "clip-vit-base-patch32"),
        ("clip", "/models/My CLIP (v2)/", "my-clip-v2"),
        ("clip", "google/siglip2-base.0", "siglip2-base.0"),
        ("clip", "x/builtin", "clip-builtin"),
        ("clip", "x/None", "clip-none"),
        ("clip", "/", "clip"),
        ("stranger", "", "stranger"),
    ],
)
def test_a_model_of_the_command_line_is_named_after_its_checkpoint(
    embedder: str, model: str, expected: str
) -> None:
    assert model_name(embedder, model) == expected


def test_the_command_line_makes_the_default_model() -> None:
    config = load(Flags({}, "clip", "openai/CLIP-a.b", "cuda:1")).config
    assert config.default_model() == "clip-a.b"
    cache = config.data.path / "models"
    options = EmbedderOptions("openai/CLIP-a.b", "cuda:1", cache=cache)
    assert config.model_configs() == {
        "builtin": ModelConfig("builtin"),
        "clip-a.b": ModelConfig("clip", options),
    }


def test_a_checkpoint_alone_means_clip() -> None:
    assert load(Flags({}, model="a/b")).config.model_configs()["b"].embedder == "clip"


def test_builtin_on_the_command_line_hides_the_configured_default(home: Path) -> None:
    write(home / "lookalike.toml", '[models]\ndefault = "a"\n[models.a]\nembedder = "clip"\n')
    assert load(NOTHING).config.default_model() == "a"
    assert load(Flags({}, "builtin")).config.default_model() == "builtin"


def test_the_only_model_is_the_default(home: Path) -> None:
    write(home / "lookalike.toml", '[models.a]\nembedder = "clip"\nmodel = "x"\n')
    assert load(NOTHING).config.default_model() == "a"


def test_the_device_flag_is_for_the_default_model(home: Path) -> None:
    write(
        home / "lookalike.toml",
        '[models]\ndefault = "b"\n[models.a]\nembedder = "clip"\n[models.b]\nembedder = "clip"\n',
    )
    configs = load(Flags({}, device="cuda")).config.model_configs()
    assert (configs["a"].options.device, configs["b"].options.device) == ("auto", "cuda")


def test_a_device_for_the_builtin_embedder_is_refused() -> None:
    assert "CPU only" in refusal(Flags({}, device="cuda"))
    load(Flags({}, device="cpu"))


def test_settings_of_one_embedder_reach_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        home / "lookalike.toml",
        '[models.a]\nembedder = "clip"\nprecision = "bf16"\n[models.a.options]\noffline = true\n',
    )
    monkeypatch.setenv("LOOKALIKE_MODELS__A__THREADS", "3")
    config = load(NOTHING).config
    options, cache = config.model_configs()["a"].options, config.data.path / "models"
    extra = {"offline": True, "precision": "bf16"}
    assert options == EmbedderOptions("", "auto", 3, extra, cache=cache)


def test_an_index_is_read_with_its_parameters(home: Path) -> None:
    write(
        home / "lookalike.toml",
        '[index]\nbackend = "faiss"\nalgorithm = "hnsw"\nparams = {m = 8}\n'
        '[index.options]\nfactory = "HNSW8"\n',
    )
    assert load(NOTHING).config.index.spec() == IndexSpec(
        "faiss", HnswParams(m=8), {"factory": "HNSW8"}
    )


def test_every_value_is_shown_with_its_origin_and_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        home / "lookalike.toml",
        '[engine]\nname = "milvus"\n[engine.options]\ntoken = "hunter2"\n'
        'uri = "https://bob:hunter2@example.com/x"\ntoken_file = "/run/t"\n',
    )
    monkeypatch.setenv("LOOKALIKE_SERVER__THREADS", "9")
    lines = list(load(Flags({("log", "level"): "debug"})).lines(origin=True))
    text = "\n".join(lines)
    assert "hunter2" not in text
    rows = {line.split(" = ")[0]: line for line in lines}
    assert rows["engine.options.uri"].startswith('engine.options.uri = "https://***@example.com/x"')
    assert '"/run/t"' in rows["engine.options.token_file"]
    assert (
        " ".join(rows["server.threads"].split()) == "server.threads = 9 # LOOKALIKE_SERVER__THREADS"
    )
    assert rows["log.level"].endswith("# flag")
    assert rows["engine.name"].endswith("# lookalike.toml")
    assert rows["limits.max_uploads"].endswith("# default")
    assert not any("#" in line for line in load(NOTHING).lines())


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.com:1", False),
    ],
)
def test_addresses_of_this_machine_alone_are_known(listen: str, expected: bool) -> None:
    assert is_loopback(listen) is expected


def record(message: str, *args: object, **fields_: object) -> logging.LogRecord:
    made = logging.LogRecord("lookalike.server.x", logging.INFO, "", 0, message, args, None)
    made.created = 1_700_000_000.5
    made.__dict__.update(fields_)
    return made


def test_a_line_of_text_stays_one_line() -> None:
    line = logs.TextFormatter().format(record("call id=%s", "a\nERROR forged"))
    assert line == "2023-11-14T22:13:20.500Z INFO server.x: call id=a\\nERROR forged"


def test_a_line_of_json_has_the_values_as_fields() -> None:
    line = logs.JsonFormatter().format(record("call method=%s ms=%.1f level=x", "Search", 1.25))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "logger": "lookalike.server.x",
        "message": "call method=Search ms=1.2 level=x",
        "method": "Search",
        "ms": "1.2",
    }


def test_a_model_table_says_what_computes_and_where_it_is_kept(tmp_path: Path) -> None:
    write(
        tmp_path / "lookalike.toml",
        '[data]\npath = "there"\nread_only = true\n'
        '[models.a]\nembedder = "clip"\nruntime = "openvino"\nprecision = "int8"\n'
        f'[models.b]\nembedder = "clip"\ncache = "{tmp_path}"\ncalibration = "{tmp_path}"\n'
        '[models]\ndefault = "a"\n',
    )
    configs = load(NOTHING).config.model_configs()
    a, b = configs["a"].options, configs["b"].options
    assert a.extra == {"runtime": "openvino", "precision": "int8"}
    assert (a.cache, a.cache_read_only) == (Path("there/models"), True), "nothing is written there"
    assert (b.cache, b.cache_read_only) == (tmp_path, False)
    assert a.calibration is None
    assert b.calibration is not None
    with pytest.raises(ModelInvalid, match="no pictures"):
        b.calibration()
