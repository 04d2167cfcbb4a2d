"""`python -m tests.rounds`: random rounds, with one line of figures at the end.

python -m tests.rounds --rounds 300               # other seeds each time; they are printed
python -m tests.rounds --minutes 60               # as many as there is time for
python -m tests.rounds --seed 4711 --keep /tmp/x  # one again; its files stay if it fails
"""

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dispatcher import times
from tests.rounds.figures import Figures
from tests.rounds.play import play


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rounds")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--rounds", type=int, default=1)
    how_many.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, help="of the first; the next ones follow it")
    parser.add_argument("--keep", type=Path, help="where the files of failed rounds are kept")
    options = parser.parse_args(arguments)
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="rounds-") as bytecode:
        for seed in seeds(options):
            seen, verdict = play(seed, Path(bytecode), keep=options.keep)
            figures.count(seen, verdict)
            print(f"seed {seed}: {'; '.join(map(str, seen.faults))}", flush=True)
            for complaint in verdict.complaints:
                print(f"  {complaint}", flush=True)
    print(figures)
    return int(figures.failed > 0)


def seeds(options: argparse.Namespace) -> Iterator[int]:
    first = random.randrange(2**32) if options.seed is None else options.seed
    if options.minutes is None:
        yield from range(first, first + options.rounds)
        return
    ends_at = times.instant() + options.minutes * 60
    for seed in itertools.count(first):
        if times.instant() >= ends_at:
            return
        yield seed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
