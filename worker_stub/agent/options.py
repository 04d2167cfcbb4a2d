"""The options of `python -m worker_stub agent`."""

import argparse

#: Seconds that a program may take to exit after its last word.
LINGER = 10.0

KINDS = ("claude", "codex", "gemini", "opencode", "lines")

VERIFY = "a shell's command that must succeed too"

DESCRIPTION = """Run an agent's command line; its events are the heartbeats.

    python -m worker_stub agent --kind claude -- \\
        claude -p --output-format stream-json --verbose "fix the tests"
    python -m worker_stub agent --kind codex -- codex exec --json "fix the tests"
    python -m worker_stub agent --kind gemini -- gemini -o stream-json -p "fix the tests"
    python -m worker_stub agent --kind opencode -- opencode run --format json "fix the tests"
    python -m worker_stub agent --kind lines -- ./batch.sh

Its stdout stays as it is. Each event renews the lease, at most two in an interval: an agent that
falls silent loses its claim. The last event declares success or failure, a usage limit defers, and
the next run resumes the session.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("--kind", required=True, choices=KINDS, help="whose output is read")
    parser.add_argument("--verify", metavar="CMD", help=VERIFY)
    parser.add_argument(
        "--limit", metavar="NAME", help="close this limit, which the task takes, at a usage limit"
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=LINGER,
        metavar="SECONDS",
        help=f"end it so long after its last event ({LINGER:g})",
    )
    parser.add_argument("command", nargs="+", metavar="CMD")
