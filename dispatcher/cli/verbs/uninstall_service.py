"""`dispatcher uninstall-service`: remove the units."""

import click

from dispatcher.cli.options import examples
from dispatcher.cli.service_options import print_steps, service_options, service_place
from dispatcher.service import install


@click.command(
    epilog=examples(
        "dispatcher uninstall-service", "dispatcher uninstall-service --user --instance gpu"
    )
)
@service_options
def command(*, user: bool, instance: str | None, force: bool, as_json: bool) -> None:
    """Remove the two units that install-service wrote.

    Drop-ins, configuration, state and user stay. A service that runs or is enabled is refused:
    disable it first.
    """
    at = service_place(user=user, instance=instance, run_as=None)
    steps = list(install.uninstall(at, force=force))
    print_steps(steps, [f"{at.systemctl} daemon-reload"], as_json=as_json)
