"""The greeting of an executor: its identity, then all its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from dispatcher import wire
from dispatcher.errors import ConfigError
from dispatcher.executor_api import Connected
from dispatcher.host.node import expect_same

log = structlog.get_logger()


#: Judges a greeting: raises a `DispatcherError` if this daemon must not work with that executor.
Check = Callable[[wire.Hello, Sequence[wire.RunReport]], None]


class Greeting:
    """The greeting of one connection, as far as it was received."""

    def __init__(self, node_id: str, state_dir: str, check: Check) -> None:
        self._node_id = node_id
        self._state_dir = state_dir
        self._check = check
        self._hello: wire.Hello | None = None
        self._runs: list[wire.RunReport] = []
        self.accepted: wire.Hello | None = None
        """Its first message, once all of it was received and accepted."""
        self.incompatible: wire.Hello | None = None
        """Its first message, if the executor speaks another version."""

    def renewed(self) -> Greeting:
        """Return the greeting of a new connection, of which nothing was received."""
        return Greeting(self._node_id, self._state_dir, self._check)

    def begin(self, hello: wire.Hello) -> None:
        """Check who the executor is. Raises `ConfigError` for another node's."""
        if hello.node_id != self._node_id:
            raise ConfigError(self._describe_stranger(hello))
        expect_same(self._node_id, Path(self._state_dir), Path(hello.state_dir), hello.pid)
        if hello.version not in {wire.VERSION, wire.VERSION - 1}:
            self.incompatible = hello
            log.error("executor.incompatible", version=hello.version, wanted=wire.VERSION)
            return
        self._hello = hello

    def add(self, run: wire.RunReport) -> None:
        self._runs.append(run)

    def complete(self) -> Connected | None:
        """Return the whole greeting, None of an incompatible executor. Raises as the check does."""
        if self._hello is None:
            return None
        runs = tuple(self._runs)
        self._check(self._hello, runs)
        self.accepted = self._hello
        return Connected(self._hello, runs)

    def _describe_stranger(self, hello: wire.Hello) -> str:
        """Return what to do about an executor of another node."""
        if hello.state_dir == self._state_dir:
            return (
                f"the executor at this socket (pid {hello.pid}, node {hello.node_id}) has lost its"
                f" state directory: {self._state_dir} was made anew (node {self._node_id}); end"
                f" that executor, which ends its runs: kill {hello.pid}"
            )
        return (
            f"the executor at this socket is of another node: its state directory is"
            f" {hello.state_dir} (node {hello.node_id}), ours is {self._state_dir}"
            f" (node {self._node_id}); give each its own [node] runtime_dir"
        )
