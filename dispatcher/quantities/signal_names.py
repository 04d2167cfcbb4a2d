"""Signals as people write them: "USR1", "SIGUSR1" or 10."""

import signal


def parse(given: object) -> int:
    """Return the number of a signal's name or number; raise ValueError with the remedy."""
    text = str(given).upper()
    if text.isascii() and text.isdigit():
        number = int(text)
    else:
        name = text if text.startswith("SIG") else f"SIG{text}"
        number = int(signal.Signals.__members__.get(name, 0))
    if isinstance(given, bool) or number not in signal.valid_signals():
        raise ValueError(f"{given!r} is not a signal; `kill -l` lists them, for example INT or 2")
    if number == signal.SIGSTOP:
        raise ValueError("STOP ends nothing; name for example INT, or KILL")
    return number


def name_of(number: int) -> str:
    """Return a signal's name, "SIGUSR1", or "signal 40" for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
