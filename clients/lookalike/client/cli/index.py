"""`lookalike index PATH...`: store pictures."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._output import counted
from lookalike.client.cli._progress import FailureList, Meter, say

if TYPE_CHECKING:
    from lookalike.client import UploadProgress, UploadReport, WriteResult
    from lookalike.client._files import FoundFile


def add_to(app: typer.Typer) -> None:
    app.command("index", rich_help_panel="Pictures")(index)


def index(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Folders (with all below) and files; - for names on stdin."
        ),
    ],
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    mode: Annotated[
        str, typer.Option(help="What to do with ids there are: upsert, skip_existing, create_only.")
    ] = "upsert",
    id_prefix: Annotated[
        str, typer.Option(help="Put before each id.", show_default=False, metavar="TEXT")
    ] = "",
    attach_path: Annotated[
        bool,
        typer.Option(
            "--attach-path", help="Attach each file's name and folder, to filter and group by."
        ),
    ] = False,
    exif: Annotated[
        str,
        typer.Option(
            metavar="basic|with-position",
            help="Take over what the camera wrote: time, camera, size; the position too.",
            show_default=False,
        ),
    ] = "",
    all_files: _options.AllFiles = False,
    zeros: Annotated[
        bool, typer.Option("-0", help="Names on stdin end with NUL, as of find -print0.")
    ] = False,
    failures: _options.Failures = "",
    quiet: _options.Quiet = False,
    json: _options.Json = False,
) -> int:
    """Store pictures. An id is the path relative to its folder.

    With --attach-path, that path is metadata, too: `shoes/red/1.jpg` gets the `name`
    "1.jpg" and the `folder` "shoes/red"; the folder of what is in no other is ".".

    Running it again finishes what was broken off: pictures that are there already, and
    the same, are neither sent to the model nor written. Ctrl-C waits for what is under
    way; twice ends at once.
    """
    from lookalike.client.cli._output import print_json
    from lookalike.client.cli._sources import found_files

    files = found_files(paths, all_files=all_files, id_prefix=id_prefix, zeros=zeros)
    with _Stop() as stop, Meter(len(files), quiet=quiet, word="index") as meter:
        with FailureList(failures, meter) as failed, _options.connect(server) as client:

            def on_result(result: WriteResult) -> None:
                if result.error is not None:
                    failed.add(result.source or result.id, result.error)

            def progress(now: UploadProgress) -> None:
                meter.update(now.done_count, now.failed_count)

            report = client.upload(
                stop.until_asked(files),
                collection=collection,
                id_prefix=id_prefix,
                attach_path=attach_path,
                mode=mode,  # type: ignore[arg-type]  # checked where it is read
                exif=exif,  # type: ignore[arg-type]  # checked where it is read
                progress=progress,
                on_result=on_result,
            )
    if json:
        print_json(_summary(report))
    elif not quiet:
        say(_sentence(report, len(files), failures))
    if stop.is_asked:
        return _exit.INTERRUPTED
    return _exit.SOME_FAILED if report.failed else _exit.DONE


def _summary(report: UploadReport) -> dict[str, Any]:
    return {
        "created": report.created,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "skipped": report.skipped,
        "failed": report.failed,
        "seconds": round(report.seconds, 3),
        "reconnects": report.reconnects,
    }


def _sentence(report: UploadReport, count: int, failures: str) -> str:
    if not count:
        return "no pictures there; --all-files takes files of any suffix"
    parts = [
        f"{number} {word}"
        for word, number in _summary(report).items()
        if word not in ("seconds", "reconnects") and number
    ]
    rate = report.total / report.seconds if report.seconds else 0.0
    where = f"; the list is in {failures}" if report.failed and failures else ""
    tries = counted(report.reconnects, "attempt")
    again = f", {tries} to connect again" if report.reconnects else ""
    return f"{', '.join(parts)} in {report.seconds:.1f} s ({rate:.0f}/s){again}{where}"


class _Stop:
    """The first Ctrl-C ends the source, the second one everything."""

    def __init__(self) -> None:
        self.is_asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def until_asked(self, files: Sequence[FoundFile]) -> Iterator[FoundFile]:
        for file in files:
            if self.is_asked:
                return
            yield file

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        say("stopping after what is under way; Ctrl-C again ends at once")
