"""The catalogue of log events against the source and the tests, in both directions."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import dispatcher
from dispatcher.logs.catalogue import DAEMON, EXECUTOR, Event

PRODUCT = Path(dispatcher.__path__[0])
TESTS = Path(__file__).parent.parent

#: Both mention events by name without logging them.
APART = {"catalogue.py", "lines.py"}

#: Events that no test causes, and why.
UNSEEN: Mapping[str, str] = {}


def literals(files: Iterator[Path]) -> set[str]:
    """Return every text of a program that has the form of an event's name."""
    quoted = re.compile(r"[\"']([a-z]+\.[a-z_]+)[\"']")
    return {name for file in files for name in quoted.findall(file.read_text("utf-8"))}


def sources(*, executor: bool) -> Iterator[Path]:
    for file in PRODUCT.rglob("*.py"):
        of_executor = file.relative_to(PRODUCT).parts[0] == "executor"
        if of_executor == executor and file.name not in APART:
            yield file


BOTH = [pytest.param(DAEMON, False, id="daemon"), pytest.param(EXECUTOR, True, id="executor")]


@pytest.mark.parametrize(("entries", "executor"), BOTH)
def test_r67_every_entry_is_logged_somewhere_and_every_logged_event_has_an_entry(
    entries: Mapping[str, Event], *, executor: bool
) -> None:
    call = re.compile(r"\b(?:log(?:\.\w+)?|self\._log|self)\(\s*\"([a-z]+\.[a-z_]+)\"")
    logged = {
        name for file in sources(executor=executor) for name in call.findall(file.read_text())
    }

    assert set() == logged - entries.keys(), "no entry"
    assert set() == entries.keys() - literals(sources(executor=executor)), "never logged"


@pytest.mark.parametrize(("entries", "executor"), BOTH)
def test_an_entry_is_a_noun_and_a_past_verb_with_a_sentence(
    entries: Mapping[str, Event], *, executor: bool
) -> None:
    for name, event in entries.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
        assert event.meaning.endswith("."), name
        assert set(event.same_by or ()) <= event.fields.keys(), name


def test_r67_every_event_is_expected_by_a_test_or_named_here_with_the_reason() -> None:
    expected = literals(file for file in TESTS.rglob("*.py") if file != Path(__file__))

    assert set() == (DAEMON.keys() | EXECUTOR.keys()) - expected - UNSEEN.keys()
    assert set() == UNSEEN.keys() & expected, "there is a test now"
