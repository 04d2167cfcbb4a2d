"""What the worker's half does without any daemon."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from worker_stub import Refused
from worker_stub.channel import Channel


def test_a_refusal_passes_any_context_manager_and_keeps_what_it_says() -> None:
    @contextmanager
    def scope() -> Iterator[None]:
        yield

    with pytest.raises(Refused) as caught, scope():
        raise Refused("superseded", "stop")

    refusal = caught.value
    assert ("superseded", "stop", True) == (refusal.error, refusal.message, refusal.lost)
    assert "superseded: stop" == str(refusal)
    assert "superseded: stop" == str(pickle.loads(pickle.dumps(refusal)))


@pytest.mark.parametrize("result", [float("inf"), [float("nan")]], ids=str)
def test_what_json_has_no_word_for_is_refused_before_it_is_sent(result: object) -> None:
    with pytest.raises(ValueError, match="what is said cannot be JSON"):
        Channel("/nowhere").ask({"op": "succeed", "result": result}, within=1.0)
