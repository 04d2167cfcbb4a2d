"""The identity of a state directory: the node, whatever the host's name.

An executor binds its node's name on this host. A copy of its state directory has the same identity
and a journal of the same processes, and is refused while the name is bound.
"""

import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from dispatcher.errors import ConfigError, cannot_write
from dispatcher.host import files, owner, sockets

_RESTORE = "restore it from a backup, or, when nothing that this node started still runs, delete it"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def node_id(state_dir: Path) -> str:
    """Return the node id of a state directory; create directory and id if missing.

    Concurrent processes get the same id. Raises `ConfigError` when the directory cannot be used or
    the file is damaged, `StoreUnavailable` when its disk is full.
    """
    known = known_node_id(state_dir)
    if known is None:
        prepare(state_dir)
    owner.refuse_foreign(state_dir)
    if known is None:
        _create(state_dir)
        known = known_node_id(state_dir)
    if known is None:
        raise ConfigError(f"{state_dir / 'node-id'}: vanished while it was made")
    return known


def known_node_id(state_dir: Path) -> str | None:
    """Return the node id of a state directory, None if no node was ever started there.

    Raises `ConfigError` when the file cannot be read or is damaged.
    """
    file = state_dir / "node-id"
    try:
        text = files.read(file).decode("utf-8", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except files.Unfit as error:
        raise ConfigError(f"{file}: damaged, it {error.strerror}; {_RESTORE}") from error
    except OSError as error:
        remedy = owner.remedy_if_foreign(file) or "make it readable for this user"
        raise ConfigError(f"{file}: {error.strerror}; {remedy}") from error
    if not _UUID.fullmatch(text):
        raise ConfigError(f"{file}: damaged, it holds {text[:40]!r} instead of a UUID; {_RESTORE}")
    return text


def prepare(state_dir: Path) -> None:
    """Create the state directory, for its owner only, if missing.

    Raises `ConfigError` when that fails, `StoreUnavailable` when its disk is full.
    """
    try:
        owner.make(state_dir)
    except OSError as error:
        problem = f"cannot make the state directory {state_dir}"
        remedy = "set [node] state_dir to one that this user may write"
        raise cannot_write(problem, error, remedy) from error


def _create(state_dir: Path) -> None:
    """Write a new id to the disk before its name appears; the first to name it wins."""
    from uuid import uuid4  # noqa: PLC0415 - once in a node's life

    draft = state_dir / f".node-id.{uuid4()}"
    try:
        files.write_new(draft, f"{uuid4()}\n", durable=True)
        with suppress(FileExistsError):
            (state_dir / "node-id").hardlink_to(draft)
        files.sync(state_dir)
    except OSError as error:
        problem = f"cannot write {state_dir / 'node-id'}"
        remedy = "make the state directory writable for this user"
        raise cannot_write(problem, error, remedy) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def hold_name(node: str, state_dir: Path) -> socket.socket | None:
    """Bind this node's name until the socket is closed; None: another executor still holds it.

    Raises `ConfigError` when that executor serves another state directory.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(_name(node))
    except OSError:
        held.close()
        refuse_copy(node, state_dir)
        return None
    held.listen()
    return held


def refuse_copy(node: str, state_dir: Path) -> None:
    """Raise `ConfigError` when an executor of this node serves another state directory."""
    pid = _holder(node)
    served = None if pid is None else _state_dir_of(pid)
    if pid is not None and served is not None:
        expect_same(node, state_dir, served, pid)


def expect_same(node: str, state_dir: Path, served: Path, executor: int) -> None:
    """Raise `ConfigError` when this node's executor serves another state directory."""
    with suppress(OSError):
        if state_dir == served or state_dir.samefile(served):
            return
    raise ConfigError(
        f"the state directory {state_dir} is a copy of {served}, or was moved from there, and the"
        f" executor of that one is running (pid {executor}): both have the identity of node {node};"
        f" to use both, delete {state_dir}/node-id and {state_dir}/executor.journal,"
        " or stop that executor, which ends its runs"
    )


def _name(node: str) -> str:
    return f"\0dispatcher-executor-{node}"


def _holder(node: str) -> int | None:
    """Return the pid of the process of this user or root that holds a node's name, if any.

    Any other user may hold any name, which means nothing.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(_name(node))
        except OSError:
            return None
        pid, uid = sockets.credentials(probe)
        return pid if uid in {os.geteuid(), 0} else None


def _state_dir_of(executor: int) -> Path | None:
    try:
        words = Path(f"/proc/{executor}/cmdline").read_bytes().split(b"\0")
        return Path(os.fsdecode(words[words.index(b"--state-dir") + 1]))
    except (OSError, ValueError):
        return None
