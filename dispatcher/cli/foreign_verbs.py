"""What the verbs of similar programs are here: pueue, Slurm, RQ, batch systems, systemctl."""

from collections.abc import Mapping
from typing import Final

#: What to type after `dispatcher`, by the verb that somebody knows.
MEANT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("add", "enqueue", "sbatch", "qsub", "bsub", "batch"), "submit -- COMMAND"),
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
    "suspend": "hold ID",
    **dict.fromkeys(("start", "continue"), "run`, `resume QUEUE` or `release ID"),
    "scontrol": "show ID`, `edit ID`, `hold ID`, `release ID`, `retry ID` or `reload",
    "parallel": "config` (node.slots), then `dispatcher reload",
    **dict.fromkeys(("daemon", "worker", "serve"), "run`, or `dispatcher run --detach"),
    **dict.fromkeys(("shutdown", "quit"), "stop"),
}
