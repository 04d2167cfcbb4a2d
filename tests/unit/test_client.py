import math
import os
import signal
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dispatcher import task_checks
from dispatcher.client import Client
from dispatcher.errors import DispatcherError, InvalidTask, StoreRefused
from dispatcher.execution import Claim
from dispatcher.model import Intent, Liveness, TaskFilter
from dispatcher.new_task import NewTask
from tests.command import Command


def new_task(**fields: Any) -> NewTask:
    return NewTask(**{"command": ("true",), "max_attempts": 1, "lease_ttl_ms": 1_000, **fields})


def test_a_client_takes_keywords_or_a_task(command: Command) -> None:
    with command.client() as client:
        first = client.submit(command=["true"], queue="q", liveness=Liveness.WORKER)
        second = client.submit(new_task(queue="r"))
        tasks = client.tasks()

    assert [second.task_id, first.task_id] == [task.id for task in tasks]
    assert [("r", 1_000), ("q", 900_000)] == [(task.queue, task.lease_ttl_ms) for task in tasks]


def test_a_client_checks_each_task_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, check = list[NewTask](), task_checks._check
    monkeypatch.setattr(task_checks, "_check", lambda task: (checked.append(task), check(task)))
    with command.client() as client:
        client.submit(command=["true"])
        client.submit(new_task())

    assert 2 == len(checked)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": ()}, "command: is empty"),
        ({"command": ("x", 5)}, "command: item 2: expected a text in quotes, got an integer"),
        ({"command": "x"}, "command: expected a list, got a text in quotes"),
        ({"max_attempts": True}, "max_attempts: expected an integer, got true or false"),
        ({"notify": "yes"}, "notify: expected true or false, got a text in quotes"),
        ({"kill_signal": "INT"}, "kill_signal: expected an integer, got a text in quotes"),
        ({"kill_signal": 65}, "kill_signal: 65 is not a signal"),
        ({"run_timeout_ms": 1.5}, "run_timeout_ms: expected an integer, got a number with"),
        ({"queue_timeout_ms": True}, "queue_timeout_ms: expected an integer, got true or false"),
        ({"priority": math.nan}, "priority: expected an integer, got a number with a fraction"),
        ({"priority": 2**70}, "priority: must be from -2147483648 to 2147483647"),
        ({"lease_ttl_ms": math.inf}, "lease_ttl_ms: expected an integer, got a number with"),
        ({"liveness": "sometimes"}, "liveness: 'sometimes' is not process or worker"),
        ({"env": {"A": 1}}, "env: A: expected a text in quotes, got an integer"),
        ({"env": {1: "A"}}, "env: expected a text in quotes, got an integer"),
        ({"env": None}, "env: expected an object, got null"),
        ({"env": {"A": "\ud800"}}, "env A: is not UTF-8"),
        ({"payload": b"{}"}, "payload: expected a text in quotes, got bytes"),
        ({"profile": 5}, "profile: expected a text in quotes, got an integer"),
        ({"profile": "a\0b"}, "profile: holds a NUL character"),
        ({"rules": {"3": "forgiven"}}, "rules: 3: 'forgiven' is not a rule; leave rules to prof"),
        ({"delay_ms": -1}, "delay: must be from 0s"),
        ({"lease_ttl_ms": 199}, "lease_ttl: must be from 200ms"),
        ({"cwd": "here"}, "cwd: 'here' is not absolute"),
        ({"labels": {"a": "x" * 256}}, "label a: 256 bytes are more than 255"),
    ],
)
def test_a_client_refuses_an_invalid_task_and_submits_none_of_many(
    command: Command, fields: Mapping[str, Any], message: str
) -> None:
    with command.client() as client:
        with pytest.raises(InvalidTask, match=message):
            client.submit_many([new_task(), new_task(**fields)])
        assert [] == client.tasks()


def test_a_command_is_a_list_and_no_string(command: Command) -> None:
    with command.client() as client, pytest.raises(InvalidTask, match="must be a list"):
        client.submit(command="echo hello")


def test_fields_of_a_task_have_their_type_whatever_was_given(command: Command) -> None:
    """A signal's name among numbers would end the executor's connection at every start."""
    with command.client() as client:
        client.submit(command=["true"], kill_signal="INT", liveness="worker")  # type: ignore[typeddict-item]
        client.submit(new_task(kill_signal=signal.SIGINT, command=["true"], liveness="worker"))
        tasks = client.tasks()

    assert [(2, Liveness.WORKER, ("true",))] * 2 == [
        (task.kill_signal, task.liveness, task.command) for task in tasks
    ]
    assert [int, int] == [type(task.kill_signal) for task in tasks]


class Text(str):
    """As libraries have them; it prints as something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


def test_a_text_of_another_library_is_taken_as_the_text_that_it_is(command: Command) -> None:
    words = {Text("name"): Text("word")}
    given: dict[str, Any] = {
        "command": [Text("echo"), Text("hello")],
        "env": words,
        "labels": words,
        "payload": Text('{"a": 1}'),
        "queue": Text("nightly"),
        "key": Text("once"),
        "cwd": Text("/tmp"),
        "kill_signal": Text("INT"),
        "liveness": Text("worker"),
    }
    with command.client() as client:
        client.submit(**given)
        (task,) = client.tasks()
        client.claim(task_id=task.id)
        client.heartbeat(task.id, note=Text("half of it"))
        note = client.runs(task.id)[-1].note
        client.complete(task.id, result={Text("verdict"): [Text("fine")]})

        result = client.runs(task.id)[-1].result

    assert (("echo", "hello"), '{"a": 1}', "nightly") == (task.command, task.payload, task.queue)
    assert {"name": "word"} == task.env == task.labels
    assert ("once", "/tmp", 2) == (task.key, task.cwd, task.kill_signal)
    assert ("half of it", '{"verdict":["fine"]}') == (note, result)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kill_signal": "TREM"}, "kill_signal: 'TREM' is not a signal"),
        ({"kill_signal": 2.0}, "kill_signal: expected an integer or a text in quotes"),
        ({"env": 5}, "env: expected an object, got an integer"),
        ({"queue": []}, "queue: expected a text in quotes, got a list"),
        ({"cwd": 5}, "cwd: expected a text in quotes, got an integer"),
        ({"profile": 5}, "profile: expected a text in quotes, got an integer"),
        ({"command": 5}, "command: must be a list of arguments"),
    ],
)
def test_a_keyword_of_a_wrong_type_is_refused_by_its_name(
    command: Command, option: Mapping[str, Any], message: str
) -> None:
    with command.client() as client:
        with pytest.raises(InvalidTask, match=message):
            client.submit(**{"command": ["true"], **option})
        assert [] == client.tasks()


def test_what_a_task_needs_fits_an_index(command: Command) -> None:
    labels = {f"label{n}": "x" * 250 for n in range(7)}
    with command.client() as client:
        task_id = client.submit(command=["true"], requires=labels).task_id
        for change in (
            lambda: client.submit(command=["true"], requires={**labels, "more": "x" * 250}),
            lambda: client.edit(task_id, requires={"more": "x" * 250}),
        ):
            with pytest.raises(InvalidTask, match="more than 2000 together"):
                change()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.pause("a b"), "queue: 'a b' is not a name; use up to"),
        (lambda client: client.pause(""), "queue: '' is not a name; use up to"),
        (lambda client: client.pause("\ud800"), "queue: is not UTF-8; encode it so"),
        (lambda client: client.pause(5), "queue: expected a text in quotes, got an integer"),
        (lambda client: client.claim(queue="a b"), "queue: 'a b' is not a name; use up to"),
        (lambda client: client.claim(queue=""), "queue: '' is not a name; use up to"),
        (lambda client: client.claim(lease_ttl_ms=1.5), "lease_ttl_ms: expected an integer, got"),
        (lambda client: client.claim(lease_ttl_ms=2.0), "lease_ttl_ms: expected an integer, got"),
        (lambda client: client.claim(lease_ttl_ms=True), "lease_ttl_ms: expected an integer, got"),
        (lambda client: client.claim(lease_ttl_ms=math.nan), "lease_ttl_ms: expected an integer"),
        (lambda client: client.claim(lease_ttl_ms=199), "lease_ttl: must be from 200ms to 3650d"),
        (lambda client: client.claim(lease_ttl_ms=2**62), "lease_ttl: must be from 200ms to 3650d"),
    ],
)
def test_an_invalid_queue_or_lease_is_refused_and_nothing_written(
    command: Command, call: Callable[[Client], object], message: str
) -> None:
    with command.client() as client:
        client.submit(command=["true"])

        with pytest.raises(InvalidTask, match=message):
            call(client)

        assert "ready" == client.task(1).state  # type: ignore[union-attr]
        with client.store.snapshot():
            assert [] == client.store.paused_queues()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.heartbeat(1, lock="\ud800"), "lock: is not UTF-8; encode it so"),
        (lambda client: client.complete(1, lock="\ud800"), "lock: is not UTF-8; encode it so"),
        (lambda client: client.heartbeat(1, lock="l", note="\ud800"), "note: is not UTF-8"),
        (lambda client: client.fail(1, "\ud800", lock="l"), "reason: is not UTF-8"),
        (lambda client: client.complete(1, lock="l", result=["\ud800"]), "result: is not UTF-8"),
        (lambda client: client.complete(1, lock="l", result=math.inf), "result: must be finite"),
        (lambda client: client.complete(1, lock="l", result={"a": [math.nan]}), "result: must be"),
        (lambda client: client.complete(1, lock="l", result={1: -math.inf}), "result: must be"),
        (lambda client: client.heartbeat(1, lock="l", progress=math.nan), "progress: must be"),
        (lambda client: client.heartbeat(1, lock="\0"), "lock: holds a NUL character"),
        (lambda client: client.heartbeat(1, lock="l", note="a\0b"), "note: holds a NUL"),
        (lambda client: client.fail(1, "a\0b", lock="l"), "reason: holds a NUL character"),
    ],
)
def test_words_that_no_json_can_hold_are_refused_by_their_name(
    command: Command, call: Callable[[Client], object], message: str
) -> None:
    with command.client() as client, pytest.raises(ValueError, match=message) as refused:
        call(client)

    assert ValueError is refused.type


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.hold(1, "\ud800"),
        lambda client: client.pause("q", "\ud800"),
        lambda client: client.resume("\ud800"),
        lambda client: client.tasks(TaskFilter(queue="\ud800")),
    ],
)
def test_a_text_that_no_store_can_hold_is_refused_in_plain_words(
    command: Command, call: Callable[[Client], object]
) -> None:
    with command.client() as client:
        client.submit(command=["true"])

        with pytest.raises(StoreRefused, match="a text is not UTF-8; encode it so"):
            call(client)


def test_a_keyword_that_nobody_knows_is_a_type_error(command: Command) -> None:
    with command.client() as client, pytest.raises(TypeError, match="kill_singal"):
        client.submit(command=["true"], kill_singal=2)  # type: ignore[call-arg]


def test_a_failure_amid_many_submits_none(command: Command) -> None:
    with command.client() as client:
        store = client.store
        accepted = store.submit

        def submit_two(tasks: list[NewTask], *, now: Any) -> Any:
            accepted(tasks[:2], now=now)
            raise RuntimeError("power cut")

        store.submit = submit_two  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="power cut"):
            client.submit_many([new_task(), new_task(), new_task(queue="third")])
        assert [] == client.tasks()


CALLS: Mapping[str, Callable[[Client], object]] = {
    "submit": lambda client: client.submit(command=["true"]),
    "submit_many": lambda client: client.submit_many([new_task()]),
    "submit_all": lambda client: client.submit_all([new_task()]),
    "cancel": lambda client: client.cancel(1),
    "retry": lambda client: client.retry(1),
    "hold": lambda client: client.hold(1),
    "release": lambda client: client.release(1),
    "pause": lambda client: client.pause("q"),
    "resume": lambda client: client.resume("q"),
    "prunable": lambda client: client.prunable(older_than_ms=0),
    "prune": lambda client: client.prune(older_than_ms=0),
    "request": lambda client: client.request(1, Intent.CANCEL),
    "request_each": lambda client: client.request_each([1], "cancel"),
    "outlook": lambda client: client.outlook(1),
    "edit": lambda client: client.edit(1, priority=1),
    "wait": lambda client: client.wait([1]),
    "claim": lambda client: client.claim(),
    "give_back": lambda client: client.give_back(
        cast("Claim", SimpleNamespace(run_uid="u")), "why"
    ),
    "heartbeat": lambda client: client.heartbeat(1, lock="l"),
    "complete": lambda client: client.complete(1, lock="l"),
    "fail": lambda client: client.fail(1, "why", lock="l"),
    "task": lambda client: client.task(1),
    "inbox": lambda client: client.inbox(),
    "handover": lambda client: client.handover(1),
    "answer": lambda client: client.answer(1, "yes"),
    "parents": lambda client: client.parents(1),
    "children": lambda client: client.children(1),
    "runs": lambda client: client.runs(1),
    "counts": lambda client: client.counts(),
    "queues": lambda client: client.queues(),
    "calendar": lambda client: client.calendar(),
    "tasks": lambda client: client.tasks(),
    "each_task": lambda client: list(client.each_task(TaskFilter())),
    "status": lambda client: client.status(),
    "standing": lambda client: client.standing(),
    "outcomes": lambda client: client.outcomes(),
    "nodes": lambda client: client.nodes(),
    "limits": lambda client: client.limits(),
    "unconfigured_limits": lambda client: client.unconfigured_limits(),
    "close_limit": lambda client: client.close_limit("x"),
    "open_limit": lambda client: client.open_limit("x"),
    "drain_node": lambda client: client.drain_node("here"),
    "resume_node": lambda client: client.resume_node("here"),
    "forget_node": lambda client: client.forget_node("here"),
    "schedules": lambda client: client.schedules(),
    "change_schedule": lambda client: client.change_schedule("x", "pause"),
}


def refusals(client: Client) -> Mapping[str, str]:
    """Call every method in this process; return the errors of those that refuse."""
    errors = {}
    for name, call in CALLS.items():
        try:
            call(client)
        except DispatcherError as error:
            errors[name] = str(error)
    client.close()
    client.close()
    return errors


def test_every_method_of_a_client_refuses_in_a_forked_child_and_close_is_harmless(
    command: Command,
) -> None:
    with command.client() as client:
        client.submit(command=["true"])
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writing, msgspec.json.encode(refusals(client)))
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as answer:
            errors = msgspec.json.decode(answer.read(), type=dict[str, str])
        os.waitpid(child, 0)

        assert CALLS.keys() == {name for name, text in errors.items() if "before a fork" in text}
        assert 2 == client.submit(command=["true"]).task_id
        assert [2, 1] == [task.id for task in client.tasks()]


def test_the_table_of_methods_that_refuse_after_a_fork_is_whole() -> None:
    public = {name for name in dir(Client) if callable(getattr(Client, name)) and name[0] != "_"}

    assert public - {"close"} == CALLS.keys()
