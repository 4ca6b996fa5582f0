"""`lookalike jobs`: what takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._output import print_json, print_pairs, print_table, time_text
from lookalike.client.cli._progress import Meter, say

if TYPE_CHECKING:
    from lookalike.client import Client, Job

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="List, show, watch and cancel jobs.")
    group.callback(invoke_without_command=True)(_root)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("watch")(watch)
    group.command("cancel")(cancel)
    app.add_typer(group, name="jobs", rich_help_panel="Collections")


def _root(
    context: typer.Context, server: _options.Server = "", json: _options.Json = False
) -> int | None:
    if context.invoked_subcommand is None:
        return list_("", server, json)
    if server or json:
        raise UsageError("put options behind the command: jobs list --json")
    return None


def list_(
    collection: Annotated[
        str, typer.Option("--collection", "-c", help="Only this one's.", show_default="all")
    ] = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """List the jobs, the newest first."""
    with _options.connect(server) as client:
        jobs = client.jobs(collection)
    if json:
        for job in jobs:
            print_json(job)
    elif not jobs:
        say("no jobs")
    else:
        columns = ["id", "kind", "collection", "state", "done", "of", "asked for"]
        rows = [
            [j.id, j.kind, j.collection, j.state, j.done_count, j.total_count, j.create_time]
            for j in jobs
        ]
        print_table(columns, rows)
    return _exit.DONE


def show(job_id: JobId, server: _options.Server = "", json: _options.Json = False) -> int:
    """Say how a job is doing."""
    with _options.connect(server) as client:
        job = client.job(job_id)
    _print(job, json)
    return _exit.DONE


def watch(
    job_id: JobId,
    server: _options.Server = "",
    quiet: _options.Quiet = False,
    json: _options.Json = False,
) -> int:
    """Follow a job until it ends; fails if it does."""
    with _options.connect(server) as client:
        return follow(client, job_id, quiet=quiet, json=json)


def cancel(job_id: JobId, server: _options.Server = "", json: _options.Json = False) -> int:
    """Ask a job to stop."""
    with _options.connect(server) as client:
        job = client.cancel_job(job_id)
    _print(job, json)
    return _exit.DONE


def follow(client: Client, job_id: str, *, quiet: bool, json: bool) -> int:
    """Show a job until it ends; with `json` each state on a line of its own."""
    job: Job | None = None
    with Meter(0, quiet=quiet or json, word=job_id) as meter:
        for job in client.watch_job(job_id):
            meter.update(job.done_count, 0, total=job.total_count, word=job.phase or job.state)
            if json:
                print_json(job)
    if job is None:
        return _exit.FAILED
    if not json:
        say(f"{job.id}: {job.state}" + (f", {job.error}" if job.error is not None else ""))
    return _exit.DONE if job.state == "succeeded" else _exit.FAILED


def _print(job: Job, json: bool) -> None:
    if json:
        print_json(job)
        return
    pairs: list[tuple[str, Any]] = [
        ("id", job.id),
        ("kind", job.kind),
        ("collection", job.collection),
        ("state", job.state),
        ("phase", job.phase),
        ("done", f"{job.done_count} of {job.total_count or '?'}"),
        ("error", job.error),
        ("asked for", time_text(job.create_time)),
        ("began", time_text(job.start_time)),
        ("ended", time_text(job.end_time)),
    ]
    print_pairs(pairs)
