"""What the verbs of similar programs are here: pueue, Slurm, RQ, batch systems, systemctl."""

import os
from collections.abc import Mapping
from typing import Final

import click

from dispatcher.cli.verb_list import VERBS
from dispatcher.errors import did_you_mean

#: What to type after `dispatcher`, by the verb that somebody knows.
MEANT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("add", "qsub", "bsub", "batch"), "submit -- COMMAND"),
    "enqueue": "submit -- COMMAND`, or of a held task `dispatcher release ID",
    "sbatch": "submit --script FILE",
    "tsp": "submit -- COMMAND`, or `dispatcher list",
    "send": "submit --payload JSON -- COMMAND",
    "group": "submit --queue NAME -- COMMAND`, or `dispatcher status",
    "srun": "submit --wait -- COMMAND",
    "stash": "submit --delay DURATION -- COMMAND`, or `dispatcher hold ID",
    **dict.fromkeys(("squeue", "qstat", "bjobs", "sacct", "ls", "ps", "jobs", "queue"), "list"),
    **dict.fromkeys(("info", "inspect", "describe"), "show ID"),
    **dict.fromkeys(("sinfo", "stats", "queues"), "status"),
    **dict.fromkeys(("log", "output"), "logs ID"),
    "tail": "logs --tail 20 ID",
    **dict.fromkeys(("follow", "watch", "attach"), "logs -f ID"),
    **dict.fromkeys(("kill", "scancel", "qdel", "bkill", "abort", "terminate"), "cancel ID"),
    **dict.fromkeys(("remove", "rm", "delete"), "cancel ID`, or `dispatcher prune ID"),
    **dict.fromkeys(("clean", "clear", "purge", "gc"), "prune --older-than DURATION"),
    **dict.fromkeys(("reset", "empty"), "cancel --queue NAME`, then `dispatcher prune"),
    **dict.fromkeys(("requeue", "rerun"), "retry ID"),
    **dict.fromkeys(("update", "modify", "nice", "renice"), "edit ID --priority N"),
    "priority": "edit ID --priority N",
    **dict.fromkeys(("switch", "urgent", "prioritize"), "edit ID --urgent"),
    "top": "edit ID --urgent`, or `dispatcher list -w",
    "suspend": "hold ID",
    "drain": "node drain NODE",
    **dict.fromkeys(("hosts", "workers", "machines"), "nodes"),
    **dict.fromkeys(("start", "continue"), "run`, `resume QUEUE` or `release ID"),
    "scontrol": "show ID`, `edit ID`, `hold ID`, `release ID`, `retry ID` or `reload",
    **dict.fromkeys(("daemon", "worker", "serve"), "run`, or `dispatcher run --detach"),
    **dict.fromkeys(("shutdown", "quit"), "stop"),
}


def meant(verb: str) -> str:
    """Return the end of a message that names what an unknown verb may mean, or ""."""
    if verb.lower() == "parallel":
        return f"; write [node] slots = 4 to {_file()}, then `dispatcher reload`"
    if (known := MEANT.get(verb.lower())) is not None:
        return f"; here it is `dispatcher {known}`"
    # A guess must not make somebody stop or change something: such a verb needs a mere slip.
    if slips := [name for name in VERBS if _is_slip(verb, name)]:
        return f"; did you mean {slips[0]!r}?"
    harmless = (name for name, it in VERBS.items() if not (it.changes or it.is_service))
    return did_you_mean(verb, harmless)


def no_arguments(does: str, verb: str) -> None:
    """Raise a usage error for arguments of a verb that has none, which names the verb that does."""
    if words := " ".join(click.get_current_context().args):
        raise click.UsageError(f"unexpected argument ({words}); to {does}: {verb} {words}")


def _is_slip(typed: str, verb: str) -> bool:
    """Return whether one letter differs, is missing or is too much, or two are swapped."""
    if len(typed) == len(verb):
        differing = [pair for pair in zip(typed, verb, strict=True) if pair[0] != pair[1]]
        return len(differing) == 1 or (len(differing) == 2 and differing[0] == differing[1][::-1])
    shorter, longer = sorted((typed, verb), key=len)
    return shorter in {longer[:at] + longer[at + 1 :] for at in range(len(longer))}


def _file() -> str:
    """Return the configuration file that is read, or would be."""
    from dispatcher.cli.configuration import named_file  # noqa: PLC0415 - for one verb
    from dispatcher.config.config import SYSTEM_FILE, find  # noqa: PLC0415
    from dispatcher.config.places import config_home  # noqa: PLC0415

    file, _ = find(named_file(), os.environ)
    home = config_home(os.environ)
    own = SYSTEM_FILE if home is None else home / "dispatcher" / "dispatcher.toml"
    return str(file or own)
