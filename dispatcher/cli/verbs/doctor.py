"""`dispatcher doctor`: every fault that can be found, with its remedy."""

import click

from dispatcher.cli import render
from dispatcher.cli.configuration import config_as_caller, config_as_owner
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.cli.progress import bar
from dispatcher.doctor.checks import findings
from dispatcher.doctor.finding import Finding, Level, from_error
from dispatcher.errors import ConfigError
from dispatcher.exit_codes import ExitCode


@click.command(
    epilog=examples(
        "dispatcher doctor",
        "dispatcher doctor --quick",
        "dispatcher doctor --json | jq '.[].level'",
    )
)
@click.option("--quick", is_flag=True, help="Check no page of the database, and count no task.")
@json_option
@config_option
def command(*, quick: bool, as_json: bool) -> int:
    """Look for faults of this host, its store and its processes; exit 1 if it finds one.

    It changes nothing, and may run while the daemon works. It reads the whole database, which takes
    some five seconds for a million tasks; --quick does not. Run it as root or as the daemon's user.
    """
    try:
        config_as_caller(warn=False)
    except ConfigError as error:
        found = [from_error("configuration", ConfigError(line)) for line in str(error).splitlines()]
    else:
        config = config_as_owner(warn=False)
        with bar("checked", None) as progressed:
            found = list(findings(config, integrity=None if quick else progressed))
    if as_json:
        print_json([_json(finding) for finding in found])
    else:
        for finding in found:
            click.echo(_line(finding))
    is_bad = any(finding.level is Level.BAD for finding in found)
    return ExitCode.REFUSED if is_bad else ExitCode.OK


def _json(finding: Finding) -> dict[str, str | None]:
    return {
        "check": finding.check,
        "level": finding.level,
        "finding": finding.text,
        "remedy": finding.remedy,
    }


_COLOURS = {
    Level.OK: "green",
    Level.SKIPPED: "blue",
    Level.WARNING: "yellow",
    Level.BAD: "red",
}


def _line(finding: Finding) -> str:
    level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{level} {finding.check:<16} {render.plain(finding.text)}{render.plain(remedy)}"
