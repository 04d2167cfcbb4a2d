"""What `install-service` and `uninstall-service` share."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from dispatcher.cli.configuration import named_file
from dispatcher.cli.options import config_option, json_option
from dispatcher.cli.printing import print_json
from dispatcher.errors import DispatcherError
from dispatcher.service import install
from dispatcher.service.files import InstallStep
from dispatcher.service.install import Place


def _instance_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,29}", name):
        raise click.UsageError(
            f"--instance: {name!r} is not a name of an instance; use up to 30 letters, digits, _, ."
            " and -, and begin with none of the last two"
        )
    if name == "dispatcher":
        raise click.UsageError(
            "--instance: the service without an instance has /etc/dispatcher/dispatcher.toml; use"
            " another name, or leave it out"
        )
    return name


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        config_option,
        json_option,
        click.option(
            "--force",
            is_flag=True,
            help="Overwrite or remove units that were changed by hand; remove them also if systemd"
            " does not answer.",
        ),
        click.option(
            "--instance",
            metavar="NAME",
            callback=_instance_name,
            help="One of several services: dispatcher@NAME and dispatcher-executor@NAME.",
        ),
        click.option("--user", is_flag=True, help="A service of your own, in your user manager."),
    ):
        command = option(command)
    return command


def service_place(*, user: bool, instance: str | None, run_as: str | None) -> Place:
    """Return the service that the options name. Raises `DispatcherError` if it is not yours."""
    if not user and os.geteuid() != 0:
        raise DispatcherError(
            "only root changes the services of this host; become root, or give --user for one of"
            " your own"
        )
    return install.place(user=user, instance=instance, named=named_file(), run_as=run_as)


def print_steps(steps: Sequence[InstallStep], follows: Sequence[str], *, as_json: bool) -> None:
    """Print what was done, and the commands to type next."""
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
