"""`dispatcher install-service` and `uninstall-service`: the units, for this installation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from dispatcher.cli.options import config_option, examples, json_option, named_file, print_json
from dispatcher.errors import DispatcherError
from dispatcher.service import install
from dispatcher.service.files import Step
from dispatcher.service.install import Place


def _instance(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,29}", name):
        raise click.UsageError(
            f"--instance: {name!r} is no name of an instance; use up to 30 letters, digits, _, ."
            " and -, and begin with none of the last two"
        )
    if name == "dispatcher":
        raise click.UsageError(
            "--instance: the service without an instance has /etc/dispatcher/dispatcher.toml; use"
            " another name, or leave it out"
        )
    return name


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which service is meant."""
    for option in (
        config_option,
        json_option,
        click.option("--force", is_flag=True, help="Also where a unit was changed by hand."),
        click.option(
            "--instance",
            metavar="NAME",
            callback=_instance,
            help="One of several: the units are dispatcher@NAME and dispatcher-executor@NAME.",
        ),
        click.option("--user", is_flag=True, help="A service of your own, in your own manager."),
    ):
        command = option(command)
    return command


@click.command(
    "install-service",
    epilog=examples(
        "dispatcher install-service                       # as root: a service of this host",
        "dispatcher install-service --instance gpu",
        "dispatcher install-service --user                # one of your own, without root",
    ),
)
@click.option(
    "--run-as",
    metavar="USER",
    help="The user that daemon and workers run as [default: as installed, else dispatcher, made if"
    " missing].",
)
@_options
def install_service(
    *, user: bool, instance: str | None, force: bool, run_as: str | None, as_json: bool
) -> None:
    """Write the two units for this installation, and a configuration if there is none.

    They start the command that runs now, with the file that --config names, else the one they have
    already, else /etc/dispatcher/dispatcher.toml, or NAME.toml for an instance; with --user in
    ~/.config. Doing it again changes nothing, or brings the units up to date. Where a unit was
    changed by hand, nothing is written; changes belong into a drop-in: systemctl edit dispatcher.

    Nothing is started; what to type next is printed.
    """
    if user and run_as:
        raise click.UsageError("--run-as: a service of your own runs as you; leave it out")
    at = _place(user=user, instance=instance, run_as=run_as)
    steps = list(install.install(at, install.this_command(), force=force))
    follows = [f"{at.systemctl} daemon-reload", f"{at.systemctl} enable --now {_units(at)}"]
    replaced = {what for did, what in steps if did == "replaced"}
    costs_of = ("when nothing runs: it ends every run", "workers go on")
    for path, costs in zip(at.paths, costs_of, strict=True):
        if str(path) in replaced:
            follows.append(f"{at.systemctl} restart {path.stem}   # {costs}")
    if at.user:
        follows.append("loginctl enable-linger   # it starts at boot, and stays when you log out")
    _report(steps, follows, as_json=as_json)


@click.command(
    "uninstall-service",
    epilog=examples(
        "dispatcher uninstall-service", "dispatcher uninstall-service --user --instance gpu"
    ),
)
@_options
def uninstall_service(*, user: bool, instance: str | None, force: bool, as_json: bool) -> None:
    """Remove the two units that install-service wrote.

    Drop-ins, configuration, state and user stay. A service that runs or is enabled is left alone:
    disable it first.
    """
    at = _place(user=user, instance=instance, run_as=None)
    steps = list(install.uninstall(at, force=force))
    _report(steps, [f"{at.systemctl} daemon-reload"], as_json=as_json)


def _place(*, user: bool, instance: str | None, run_as: str | None) -> Place:
    if not user and os.geteuid() != 0:
        raise DispatcherError(
            "only root changes the services of this host; become root, or give --user for one of"
            " your own"
        )
    return install.place(user=user, instance=instance, named=named_file(), run_as=run_as)


def _units(at: Place) -> str:
    return " ".join(name.removesuffix(".service") for name in at.names)


def _report(steps: Sequence[Step], follows: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"steps": [step._asdict() for step in steps], "next": follows})
        return
    for did, what in steps:
        if did == "warning":
            click.echo(f"dispatcher: warning: {what}", err=True)
        else:
            click.echo(f"{did} {what}")
    click.echo("next:")
    for line in follows:
        click.echo(f"  {line}")
