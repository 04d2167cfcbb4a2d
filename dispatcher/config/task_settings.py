"""The sections about tasks: `[defaults]`, `[queues.NAME]` and `[profiles.NAME]`."""

from collections.abc import Container, Iterator
from typing import Annotated, Literal

from msgspec import Meta

from dispatcher.config import limits, template
from dispatcher.config.section import (
    MOST,
    NAME,
    Minute,
    QuarterHour,
    Section,
    TenSeconds,
    above_zero,
    at_least,
    label_mistakes,
)
from dispatcher.named_limits import Rule, Units, parse_breaker
from dispatcher.new_task import Meaning
from dispatcher.quantities import signal_names
from dispatcher.quantities.durations import Milliseconds

HookProfile = Annotated[str, Meta(pattern=NAME, examples=["notify"])] | None


class Defaults(Section, frozen=True):
    """Defaults for options that a submit leaves out."""

    queue: Annotated[str, Meta(pattern=NAME, examples=["default"])] = "default"
    """The queue of a task without one."""
    priority: Annotated[int, Meta(ge=-(2**31), le=MOST, examples=[0])] = 0
    """The priority of a task without one. The highest of a queue is claimed first; queues take
    turns."""
    environment: Annotated[Literal["submitter", "clean"], Meta(examples=["clean"])] | None = None
    """What a command without a profile gets. `submitter`: the environment and umask of the shell
    that submits it, which the database then holds. `clean`: what the executor passes on (`PATH`,
    `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, `LC_*`, `TZ`, `TMPDIR`), and the umask below. Left
    out: `submitter`, but `clean` where several hosts share a store."""
    umask: Annotated[str, Meta(examples=["022"])] = "022"
    """The umask of clean tasks, in octal digits, unless their profile has one. The dispatcher's own
    files are its user's alone, whatever it is."""
    allow_commands: Annotated[bool, Meta(examples=[False])] = True
    """Whether a submit may give a command, not only a profile. It guards against mistakes alone: a
    user who may write the database may run anything as the daemon's user."""

    def _mistakes(self) -> Iterator[str]:
        yield from _umask_mistakes(self.umask)


class HooksSection(Section, frozen=True):
    """Profiles of which a task is submitted when something happens: with it, or not at all. Its
    payload is the event. What happens to tasks of hooks has no hook. The file of the daemon or
    command that makes the change counts.
    """

    failed: HookProfile = None
    """When a task becomes `failed`."""
    held: HookProfile = None
    """When a task becomes `held`, for whatever reason."""
    succeeded: HookProfile = None
    """When a task becomes `succeeded`."""
    queue_paused: HookProfile = None
    """When a queue is paused."""
    limit_closed: HookProfile = None
    """When a limit is closed."""
    worker_unkillable: HookProfile = None
    """When processes of a run live on after SIGKILL."""
    node_paused: HookProfile = None
    """When a node stops claiming for a while, as its host cannot start workers; again only once it
    could."""

    @property
    def are_given(self) -> bool:
        """Whether there is any hook."""
        return self != HooksSection()

    def mistakes(self, profiles: Container[str]) -> Iterator[str]:
        """Yield the mistake of each hook whose profile is none of these."""
        for hook in self.__struct_fields__:
            if (name := getattr(self, hook)) is not None and name not in profiles:
                yield f"hooks.{hook}: {unknown_profile(name)}"


def unknown_profile(name: str) -> str:
    """Return the mistake, with its remedy, of a section that names a profile that is not there."""
    return f"there is no profile {name!r}; add [profiles.{name}], or correct the name"


class TaskDefaults(Section, frozen=True):
    """Defaults for the tasks of a queue or profile."""

    priority: Annotated[int, Meta(ge=-(2**31), le=MOST, examples=[10])] | None = None
    """Higher ones are claimed first, within their queue; queues take turns."""
    max_attempts: Annotated[int, Meta(ge=1, le=MOST, examples=[5])] | None = None
    """Attempts after which a task is failed."""
    liveness: Annotated[Literal["process", "worker"], Meta(examples=["worker"])] | None = None
    """What renews the lease: the daemon while the process lives, or the worker's heartbeats."""
    notify: Annotated[bool, Meta(examples=[True])] | None = None
    """Whether runs get a socket of systemd's notify protocol (`$NOTIFY_SOCKET`). With liveness
    `worker` all runs do."""
    lease_ttl_ms: QuarterHour | None = None
    """The lease. Left out: the one of `[leases]` for the task's liveness."""
    run_timeout_ms: Annotated[Milliseconds, Meta(examples=["2h"])] | None = None
    """A run longer than this is ended: `timed_out`."""
    stall_timeout_ms: QuarterHour | None = None
    """A run without new progress or output for this long is ended: `stalled`."""
    start_timeout_ms: Minute | None = None
    """A run without a first heartbeat for this long is ended: `lost`. Only for tasks with liveness
    `worker`."""
    queue_timeout_ms: Annotated[Milliseconds, Meta(examples=["1d"])] | None = None
    """A task fails if it was ready for this long while no slot was free."""
    total_timeout_ms: Annotated[Milliseconds, Meta(examples=["2d"])] | None = None
    """A task fails if it is not done this long after its submit."""
    kill_grace_ms: TenSeconds | None = None
    """Time between the kill signal and SIGKILL. Left out: the one of `[leases]`."""
    kill_signal: Annotated[str, Meta(examples=["INT"])] | None = None
    """The signal that ends a run. Left out: `TERM`."""
    kill_mode: Annotated[Literal["tree", "leader"], Meta(examples=["leader"])] | None = None
    """What gets that signal: all processes of the run (`tree`), or only the first one (`leader`),
    for a master that ends its own workers. In either case the survivors of the grace get SIGKILL.
    Left out: `tree`."""
    backoff_min_ms: TenSeconds | None = None
    """The back-off after a first failure. Left out, as those that follow: the one of `[retry]`."""
    backoff_max_ms: QuarterHour | None = None
    """The longest back-off."""
    cooldown_ms: Minute | None = None
    """The delay after a deferral that names none."""
    max_deferrals: Annotated[int, Meta(ge=0, le=MOST, examples=[100])] | None = None
    """Deferrals (exit code 75) after which a task is held."""
    max_orphans: Annotated[int, Meta(ge=0, le=MOST, examples=[5])] | None = None
    """Runs lost by the dispatcher, as in a crash, after which a task is held."""
    requires: Annotated[dict[str, str], Meta(examples=[{"gpu": "a100"}])] | None = None
    """Labels that a node must have to run a task (see `[node] labels`). A submit may require
    more."""
    limits: Annotated[dict[str, Units], Meta(examples=[{"provider": 1}])] | None = None
    """Named limits that a task takes, and how much of each (see `[limits.NAME]`). A submit may take
    more of them."""

    def _mistakes(self) -> Iterator[str]:
        times = [f"{name}_ms" for name in limits.TIMEOUTS]
        yield from at_least(limits.LEAST_LEASE, self, "lease_ttl_ms")
        yield from above_zero(self, *(name for name in times if getattr(self, name) is not None))
        yield from limits.too_long(
            self, "lease_ttl", *limits.TIMEOUTS, "kill_grace", *limits.DELAYS
        )
        if self.kill_signal is not None:
            try:
                signal_names.parse(self.kill_signal)
            except ValueError as error:
                yield f"kill_signal: {error}"
        if mistake := limits.contradiction(self):
            yield mistake
        yield from label_mistakes("requires", self.requires or {})
        least, most = self.backoff_min_ms, self.backoff_max_ms
        if (
            least is not None
            and most is not None
            and (mistake := limits.backoff_mistake(least, most))
        ):
            yield mistake


class Queue(TaskDefaults, frozen=True):
    """One queue: how many of its tasks run at once, and their defaults. A queue needs no entry
    here: a submit may name any.
    """

    concurrency: Annotated[int, Meta(ge=0, le=10_000, examples=[2])] | None = None
    """How many of its tasks run at once on this node. Left out: as many as there are slots. Local
    claims (`dispatcher claim`) do not count: they take no slot. With `0` this node's daemon claims
    nothing from it: a queue for local claims, for which `run --drain` does not wait."""
    breaker: Annotated[str, Meta(examples=["5 in 10m"])] | None = None
    """After so many failures that use up an attempt, in this time and without a success between
    them, nothing of it starts on any node until a probe has succeeded. Until one of its tasks has
    succeeded within the time, no more of them run at once than may still fail. Each daemon obeys
    its own file."""
    breaker_cooldown_ms: Annotated[Milliseconds, Meta(examples=["1m"])] | None = None
    """How long after that a probe starts: one of its tasks. If it fails, so long again. Left out:
    1 min."""
    global_concurrency: Annotated[int, Meta(ge=1, le=1_000_000, examples=[10])] | None = None
    """How many of its tasks run at once on all nodes that share the store together. Each daemon
    obeys its own file, so give all files the same number. Left out: each node's limit alone."""
    weight: Annotated[int, Meta(ge=1, le=1000, examples=[3])] = 1
    """How many of its tasks are claimed in its turn, when others have ready tasks too: its part of
    the free slots of this node."""
    ageing_ms: Annotated[Milliseconds, Meta(examples=["10m"])] | None = None
    """The waiting that one point of priority is worth: a task that was submitted so much earlier
    goes before one with a point more. Fixed at submit. Left out: priority decides alone."""

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        if self.ageing_ms is not None:
            yield from at_least(Milliseconds(1000), self, "ageing_ms")
            yield from limits.too_long(self, "ageing")
        if self.breaker_cooldown_ms is not None:
            yield from above_zero(self, "breaker_cooldown_ms")
            yield from limits.too_long(self, "breaker_cooldown")
            if self.breaker is None:
                yield "breaker_cooldown: there is no breaker; add it, or leave this out"
        try:
            _ = self.rule
        except ValueError as error:
            yield f"breaker: {error}"

    @property
    def rule(self) -> Rule | None:
        """What bounds it on all nodes; None: nothing. Raises ValueError for a mistaken breaker."""
        if self.global_concurrency is None and self.breaker is None:
            return None
        breaker = None
        if self.breaker is not None:
            breaker = parse_breaker(self.breaker, self.breaker_cooldown_ms)
        return Rule(concurrency=self.global_concurrency, breaker=breaker)


class Profile(TaskDefaults, frozen=True, kw_only=True):
    """A kind of task, submitted by its name: its command, and the defaults of its tasks.

    All of it is fixed at submit: a change of this file changes no submitted task.
    """

    command: Annotated[
        tuple[str, ...], Meta(min_length=1, examples=[["convert", "{input}", "-resize", "{size}"]])
    ]
    """The program and its arguments. `{key}` is replaced by a top-level key of the payload: a text,
    a number, true or false; it stays within its argument, and no shell sees it. Write `{{` for a
    brace."""
    queue: Annotated[str, Meta(pattern=NAME, examples=["images"])] | None = None
    """The queue of its tasks. Left out: the one of `[defaults]`."""
    cwd: Annotated[str, Meta(examples=["/srv/images"])] | None = None
    """The working directory. Left out: that of the submit."""
    env: Annotated[dict[str, str], Meta(examples=[{"LEVEL": "3"}])] | None = None
    """Variables for the command; those of the submit take precedence."""
    env_file: Annotated[str, Meta(examples=["/etc/dispatcher/images.env"])] | None = None
    """A file of `NAME=VALUE` lines with secrets for the command; `env` takes precedence. Values may
    be quoted with '...' or "..."; # begins a comment. The daemon reads it when it starts and at
    each reload, and a run gets the values of that time: they are never stored or shown. While it
    cannot be read, submits are refused, and a daemon that never read it holds the tasks. With `-`
    before its path it may be missing."""
    umask: Annotated[str, Meta(examples=["077"])] | None = None
    """The umask of the command, in octal digits. Left out: the one of `[defaults]`. A profile's
    environment is always clean."""
    exit_codes: (
        Annotated[dict[str, Meaning], Meta(examples=[{"3": "deferred", "4": "held"}])] | None
    ) = None
    """What exit codes mean: `succeeded`, `failed`, `deferred` or `held`. Others keep their meaning.
    With `"0" = "failed"` a run succeeds only if its worker declares it."""
    leftovers: Annotated[Literal["end", "report"], Meta(examples=["report"])] = "end"
    """What happens to processes that outlive the first one by `[leases] leftover_grace`: they are
    ended (`end`), or only named in `show` and `worker.leftover_reported` (`report`), as for a build
    server that several users share. The next start does not wait for reported ones."""
    output: Annotated[Literal["file", "journal"], Meta(examples=["journal"])] = "file"
    """Where its output goes: to its file (`dispatcher logs`), or to systemd's journal as well, each
    line a record (`journalctl DISPATCHER_TASK_ID=42`). The file stays, within `[output]`."""
    lost: Annotated[Literal["attempt", "orphan"], Meta(examples=["orphan"])] = "attempt"
    """What a lost lease costs: one of `max_attempts`, or one of `max_orphans`."""

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        try:
            template.check(self.command)
        except ValueError as error:
            yield f"command: {error}"
        yield from _umask_mistakes(self.umask)
        if not self.command[0]:
            yield "command: its program is empty; name one"
        for code in self.exit_codes or ():
            if not (
                code.isascii() and code.isdigit() and int(code) <= 255 and str(int(code)) == code
            ):
                yield f"exit_codes: {code!r} is not an exit code; write one from 0 to 255"
        for key, path in (("cwd", self.cwd), ("env_file", (self.env_file or "/").lstrip("-"))):
            if path is not None and not path.startswith("/"):
                yield f"{key}: {path!r} is not absolute; begin it with /"
            elif path is not None and limits.CONTROL.search(path):
                yield f"{key}: {limits.unprintable_path(path)}"
        for name in self.env or ():
            try:
                limits.check_variable(name)
            except ValueError as error:
                yield f"env: {error}"


def _umask_mistakes(given: str | None) -> Iterator[str]:
    try:
        if given is not None:
            limits.umask(given)
    except ValueError as error:
        yield f"umask: {error}"
