"""`python -m lookalike.server`: parse, configure logging, run until told to stop."""

from __future__ import annotations

import faulthandler
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lookalike.server.ending import end, end_after
from lookalike.server.keys_commands import keys_app
from lookalike.server.model_commands import model_app

if TYPE_CHECKING:
    from lookalike.server.config import Flags, Loaded

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130

app = typer.Typer(
    name="lookalike-server",
    help="The visual similarity search server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(keys_app, name="keys")
app.add_typer(model_app, name="model")

_ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with settings.")
]
_Data = Annotated[str | None, typer.Option(metavar="DIR", help="Folder to keep everything in.")]
_ReadOnly = Annotated[
    bool, typer.Option("--read-only", help="Write nothing into the folder; refuse all changes.")
]
_TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Take the place of the server that has the folder, if any."),
]
_Listen = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address to listen on; port 0: any free.")
]
_Embedder = Annotated[
    str | None, typer.Option(metavar="NAME", help='"builtin", "clip", or a plug-in\'s name.')
]
_Model = Annotated[
    str | None, typer.Option(metavar="PATH_OR_NAME", help="The embedder's checkpoint.")
]
_Index = Annotated[
    str | None, typer.Option(metavar="NAME", help='"auto", "exact", "faiss", "hnswlib", ...')
]
_Engine = Annotated[str | None, typer.Option(metavar="NAME", help='"local", or a plug-in\'s name.')]
_Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", help='"auto", "cpu", "cuda" or "cuda:N".')
]
_Keys = Annotated[
    str | None, typer.Option("--keys", metavar="FILE", help="API keys; callers need one of them.")
]
_TlsCertificate = Annotated[
    str | None, typer.Option(metavar="FILE", help="Speak TLS with this certificate (PEM).")
]
_TlsKey = Annotated[
    str | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).")
]
_TlsClientCa = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Let in only clients with a certificate of this CA (PEM)."),
]
_Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Let other machines reach it without TLS or without keys."),
]
_LogLevel = Annotated[
    str | None, typer.Option(metavar="LEVEL", help="debug, info, warning, error.")
]
_LogFormat = Annotated[str | None, typer.Option(metavar="FORMAT", help="text or json.")]


@app.command()
def serve(
    data: _Data = None,
    read_only: _ReadOnly = False,
    listen: _Listen = None,
    take_over: _TakeOver = False,
    embedder: _Embedder = None,
    model: _Model = None,
    index: _Index = None,
    engine: _Engine = None,
    config: _ConfigFile = None,
    device: _Device = None,
    keys: _Keys = None,
    tls_certificate: _TlsCertificate = None,
    tls_key: _TlsKey = None,
    tls_client_ca: _TlsClientCa = None,
    insecure: _Insecure = False,
    log_level: _LogLevel = None,
    log_format: _LogFormat = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one ends it at once."""
    flags = _flags(
        {
            "server.listen": listen,
            "server.take_over": "true" if take_over else None,
            "data.path": data,
            "data.read_only": "true" if read_only else None,
            "index.backend": index,
            "engine.name": engine,
            "access.keys_file": keys,
            "access.insecure": "true" if insecure else None,
            "tls.certificate": tls_certificate,
            "tls.key": tls_key,
            "tls.client_ca": tls_client_ca,
            "log.level": log_level,
            "log.format": log_format,
        },
        embedder,
        model,
        device,
    )
    _run(_load(flags, config))


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What lookalike backup wrote.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The data folder to make; new or empty.")
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[COLLECTION=]BACKEND[:ALGORITHM]",
            help="Another kind of index, for all collections or for one; may be repeated.",
        ),
    ] = None,
    accept_damage: Annotated[
        bool,
        typer.Option(
            "--accept-damage", help="Go on where single items were damaged before the backup."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether the backup is sound.")
    ] = False,
) -> None:
    """Make a data folder of a backup, checking all of it. Needs no server."""
    if (data is None) != check:
        _say("say --data DIR to restore, or --check to look only")
        raise typer.Exit(_USAGE)
    raise typer.Exit(_restore(file, data, index or [], accept_damage))


@app.command()
def verify(
    data: _Data = None,
    collection: Annotated[
        str, typer.Option("--collection", "-c", metavar="NAME", help="Only this one.")
    ] = "",
    probes: Annotated[
        int, typer.Option(help="Items of each to search for by their own vectors; -1: all.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    config: _ConfigFile = None,
) -> None:
    """Check a data folder that no server uses: 0 if all is well, 1 if anything was found."""
    loaded = _load(_flags({"data.path": data}, None, None, None), config)
    end(_verify(loaded, collection, probes, as_json, quiet))


@config_app.command("show")
def show(
    origin: Annotated[bool, typer.Option(help="Say whence each value came.")] = False,
    config: _ConfigFile = None,
) -> None:
    """Print every setting as it is in force; secrets are hidden."""
    for line in _load(_flags({}, None, None, None), config).lines(origin=origin):
        typer.echo(line)


def main() -> None:
    """Run the command line."""
    # Before numpy is imported. Readers, searches and the writer multiply small matrices
    # side by side; BLAS threads of their own make each of them wait for the others (one
    # query over 10,000 x 512 took 16 ms with them and 0.7 ms without, on busy cores).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Threads of FAISS that wait must not spin: they would take the cores from the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


def _flags(
    values: dict[str, str | None], embedder: str | None, model: str | None, device: str | None
) -> Flags:
    from lookalike.server.config import Flags

    by_path = {tuple(path.split(".")): value for path, value in values.items()}
    return Flags(by_path, embedder, model, device)


def _load(flags: Flags, file: Path | None) -> Loaded:
    from lookalike.server.config import ConfigError, load

    try:
        return load(flags, file)
    except ConfigError as error:
        _say(str(error))
        raise typer.Exit(_USAGE) from None


def _run(loaded: Loaded) -> NoReturn:
    """Serve and end the process: its end must not wait for threads that hang."""
    from lookalike.backends.errors import LookalikeError
    from lookalike.server import logs
    from lookalike.server.heap import bound_heap, keep_heap

    faulthandler.enable()
    bound_heap()
    keep_heap()
    log = loaded.config.log
    logs.configure(log.level, log.format, words=log.words)
    try:
        code = _serve(loaded)
    except LookalikeError as error:
        _say(error.message)
        code = _FAILED
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}." if error.filename else str(error))
        code = _FAILED
    except KeyboardInterrupt:
        code = _INTERRUPTED
    end(code)


def _serve(loaded: Loaded) -> int:
    from lookalike.server.app import App
    from lookalike.server.signals import Signals

    config = loaded.config
    stop = Signals()
    server = App(config, version=_version(), should_stop=lambda: stop.wait(0), ask_to_stop=stop.ask)
    stop.reload = server.reload
    address = server.start()
    while not (stopped := stop.wait(0)) and not server.wait_ready(0.1):
        pass
    if not stopped:
        _tell(
            f"lookalike {_version()} ready on {address} (embedder {config.default_model()}, "
            f"index {config.index.backend}, data {config.data.path}"
            f"{', read-only' if config.data.read_only else ''})"
        )
    stop.wait()
    if not server.handed_over:
        section = config.server
        end_after(section.notice_s + section.grace_s, server.save)
        server.stop(section.grace_s, process_ends=True)
    return 0


def _tell(line: str) -> None:
    """Print the one line that scripts wait for; whoever has closed the pipe does not."""
    with suppress(BrokenPipeError):
        print(line, flush=True)  # noqa: T201


def _restore(file: Path, data: Path | None, wishes: list[str], accept_damage: bool) -> int:
    import tempfile

    from lookalike.backends.errors import InvalidArgument, LookalikeError
    from lookalike.server import restore as restoring

    try:
        indexes = restoring.read_indexes(wishes)
        if data is None:
            with tempfile.TemporaryDirectory() as scratch:
                restoring.check(file, Path(scratch), _say_plain)
            return 0
        restoring.restore(file, data, indexes=indexes, accept_damage=accept_damage, say=_say_plain)
        _say_plain(f"restored; start it with: lookalike serve --data {data}")
        return 0
    except InvalidArgument as error:
        _say(error.message)
        return _USAGE
    except LookalikeError as error:
        _say(error.message)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return _FAILED


def _verify(loaded: Loaded, collection: str, probes: int, as_json: bool, quiet: bool) -> int:
    from lookalike.backends.errors import LookalikeError
    from lookalike.server import verify_folder

    faulthandler.enable()
    try:
        return verify_folder.report(loaded.config, collection, probes, as_json=as_json, quiet=quiet)
    except LookalikeError as error:
        _say(verify_folder.explain(error))
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _FAILED


def _say(message: str) -> None:
    print(f"lookalike-server: {message}", file=sys.stderr)  # noqa: T201


def _say_plain(message: str) -> None:
    print(message.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)  # noqa: T201


def _version() -> str:
    try:
        return version("lookalike")
    except PackageNotFoundError:
        return "0+unknown"


if __name__ == "__main__":
    main()
