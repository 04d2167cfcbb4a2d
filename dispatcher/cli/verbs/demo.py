"""`dispatcher demo`: the main job on real input, a SIGKILL in the middle, and the proof."""

import sysconfig
import tempfile
from pathlib import Path

import click
from rich.console import Console

from dispatcher.cli.options import examples
from dispatcher.cli.param_types import FILE
from dispatcher.demo.cast import cast
from dispatcher.demo.files import SLOW, Job, largest
from dispatcher.demo.play import Play
from dispatcher.demo.proof import checks
from dispatcher.demo.screen import DemoFailed, Screen
from dispatcher.exit_codes import ExitCode


@click.command(
    epilog=examples(
        "dispatcher demo",
        "dispatcher demo /usr/share/doc",
        "dispatcher demo --svg demo.svg   # a picture of it",
    )
)
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--svg",
    "picture",
    metavar="PATH",
    type=FILE,
    help="Write a picture of the output to this file.",
)
def command(folder: Path | None, picture: Path | None) -> int:
    """Watch the main job, workers that misbehave, and a kill in the middle.

    It runs one gzip task for each of the 48 largest files of FOLDER (default: Python's standard
    library), and six workers: one sends heartbeats for five leases, one falls silent, one ignores
    SIGTERM and leaves an escaped grandchild, one fails for good, one exits 75 twice, one names no
    program. It kills the daemon with SIGKILL when half of the files are settled, and starts it
    again. It works in a temporary folder and leaves nothing behind. It exits 0 only if every
    promise was kept.
    """
    files = largest(folder or Path(sysconfig.get_path("stdlib")))
    if len(files) <= 2 * SLOW:
        raise click.UsageError(f"{folder} has only {len(files)} files to compress; name another")
    with tempfile.TemporaryDirectory(prefix="dispatcher-demo-") as directory:
        where = Path(directory)
        trail = where / "trail"
        job, parts = Job(files, where / "results"), cast(trail)
        screen = Screen(Console())
        play = Play(job, parts, where, screen)
        with play.client:
            try:
                with screen:
                    play.perform()
            except DemoFailed as error:
                raise click.ClickException(str(error)) from error
            screen.write("the promises; for workers, the fence and outcome of each run:")
            kept = []
            for check in checks(play, job, parts, trail):
                screen.write(str(check))
                kept.append(check.kept)
        if picture is not None:
            picture.write_text(screen.picture(), "utf-8")
    return ExitCode.OK if all(kept) else ExitCode.REFUSED
