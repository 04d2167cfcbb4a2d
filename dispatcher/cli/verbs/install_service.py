"""`dispatcher install-service`: write the units of this installation."""

import shlex

import click

from dispatcher.cli.options import examples
from dispatcher.cli.service_options import print_steps, service_options, service_place
from dispatcher.service import install
from dispatcher.service.install import Place


@click.command(
    epilog=examples(
        "dispatcher install-service                       # as root: a service of this host",
        "dispatcher install-service --instance gpu",
        "dispatcher install-service --user                # one of your own, without root",
    )
)
@click.option(
    "--run-as",
    metavar="USER",
    help="The user of daemon and workers [default: as installed, or dispatcher, which is made if"
    " missing].",
)
@service_options
def command(
    *, user: bool, instance: str | None, force: bool, run_as: str | None, as_json: bool
) -> None:
    """Write the two units for this installation, and a configuration if there is none.

    The units start this dispatcher with the first of these files:

    \b
      the file of --config
      the file that installed units name
      for an instance: /etc/dispatcher/NAME.toml
      otherwise: /etc/dispatcher/dispatcher.toml

    With --user the directory is ~/.config/dispatcher instead.

    A second install changes nothing, or updates the units. If a unit was changed by hand, nothing
    is written; make changes in a drop-in: systemctl edit dispatcher.

    Nothing is started; the commands to type next are printed.
    """  # noqa: D301 - click reads the \b
    if user and run_as:
        raise click.UsageError("--run-as: a service of your own runs as you; leave it out")
    at = service_place(user=user, instance=instance, run_as=run_as)
    steps = list(install.install(at, install.this_command(), force=force))
    follows = [f"{at.systemctl} daemon-reload", f"{at.systemctl} enable --now {_units(at)}"]
    replaced = {what for did, what in steps if did == "replaced"}
    costs_of = ("when nothing runs: it ends every run", "workers go on")
    for path, costs in zip(at.paths, costs_of, strict=True):
        if str(path) in replaced:
            follows.append(f"{at.systemctl} restart {path.stem}   # {costs}")
    if at.user:
        follows.append("loginctl enable-linger   # it starts at boot, and stays when you log out")
    if at.file != at.usual_file:
        become = "" if at.user else f"sudo -u {at.run_as} "
        named = shlex.quote(str(at.file))
        follows.append(f"{become}dispatcher status --config {named}   # each verb takes --config")
    print_steps(steps, follows, as_json=as_json)


def _units(at: Place) -> str:
    return " ".join(name.removesuffix(".service") for name in at.names)
