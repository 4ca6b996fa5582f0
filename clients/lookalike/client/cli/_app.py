"""Puts the commands together."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.client.cli import (
    _access,
    backup,
    collections,
    demo,
    duplicates,
    embed,
    eval_,
    export_,
    facets,
    index,
    items,
    jobs,
    search,
    serve,
    system,
    verify,
    web,
)


def make_app() -> typer.Typer:
    """Return the application with all its commands."""
    app = typer.Typer(
        name="lookalike",
        help="Find pictures that look alike.",
        epilog="A server answers all of these: start one with lookalike serve.",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        invoke_without_command=True,
    )
    app.callback(invoke_without_command=True)(_root)
    for module in (
        index,
        search,
        duplicates,
        facets,
        embed,
        collections,
        items,
        jobs,
        eval_,
        backup,
        export_,
        verify,
        system,
        serve,
        web,
        demo,
    ):
        module.add_to(app)
    _add_access(app)
    return app


def _add_access(app: typer.Typer) -> None:
    """Give every command that calls a server the options to do so safely."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _access.with_access(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _add_access(group.typer_instance)


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(f"lookalike {version_of('lookalike')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
