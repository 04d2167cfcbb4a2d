"""`python -m tests.rounds`: random rounds, with a table of figures at the end.

python -m tests.rounds --rounds 300               # other seeds each time; they are printed
python -m tests.rounds --seed 4711 --keep /tmp/x  # one again; its files stay
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.rounds.figures import Figures
from tests.rounds.play import play


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rounds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, help="of the first; the next ones follow it")
    parser.add_argument("--keep", type=Path, help="where the files of failed rounds are kept")
    options = parser.parse_args(arguments)
    first = random.randrange(2**32) if options.seed is None else options.seed
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="rounds-") as bytecode:
        for seed in range(first, first + options.rounds):
            seen, verdict = play(seed, Path(bytecode), keep=options.keep)
            figures.count(seen, verdict)
            print(f"seed {seed}: {'; '.join(map(str, seen.faults))}", flush=True)
            for complaint in verdict.complaints:
                print(f"  {complaint}", flush=True)
    print(figures)
    return int(figures.failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
