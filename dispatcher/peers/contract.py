"""What a node's listener and those who read from it send each other.

The reader sends an `Ask`. The listener answers with `OutputPart`s, each followed by its bytes; one
without bytes means that there is no more for now. Then the reader may send `MORE` for what was
written since. Each message is one line of JSON.
"""

import msgspec

#: The version of this protocol: a listener refuses any other.
VERSION = 1

#: The line with which a reader asks for more.
MORE = b"\n"

#: Bytes of a message.
MOST_OF_MESSAGE = 64 * 1024

#: Seconds that either side waits for the other.
PATIENCE = 60.0


class Ask(msgspec.Struct):
    """The output of one run, from an offset, or from its last lines."""

    token: str
    uid: str
    version: int = VERSION
    offset: int = 0
    tail: int | None = None


class OutputPart(msgspec.Struct, omit_defaults=True):
    """A part of the output. Counts are those since the part before: see `RunOutput`."""

    length: int = 0
    """The bytes that follow."""
    offset: int = 0
    """Where the next part begins in the file."""
    exists: bool = False
    dropped: int = 0
    holes: int = 0
    truncated: int = 0
    refused: str | None = None
    """Why there is no answer; the listener then closes the connection."""


class ListenerReport(msgspec.Struct, omit_defaults=True):
    """A line that the listener's process writes for its daemon."""

    ready: bool = False
    """It listens."""
    peer: str = ""
    refused: str = ""
    """Why it refused this peer."""
