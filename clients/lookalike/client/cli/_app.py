"""Puts the commands together."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.client.cli import (
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
    return app


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
