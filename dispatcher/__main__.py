"""The command `dispatcher`."""

import gc
import sys

from dispatcher.host import inheritance, utf8


def main() -> int:
    """Run the command line that this process was given; return its exit code."""
    inheritance.repair()
    utf8.ensure_utf8_mode()
    # Objects made by imports are kept: scanning them for garbage costs a tenth of a submit's time.
    gc.disable()
    try:
        from dispatcher.cli.app import run  # noqa: PLC0415 - Ctrl-C may come this early

        gc.freeze()
        gc.enable()
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
