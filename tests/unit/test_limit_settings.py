"""`[limits.NAME]`, and which limits tasks take of queue, profile and submit."""

from pathlib import Path

import pytest

from dispatcher.config.config import Config, Mistaken, load
from dispatcher.errors import ConfigError, InvalidTask
from dispatcher.named_limits import Rate, Rule, parse_breaker
from dispatcher.quantities.durations import Milliseconds
from dispatcher.submission import new_task

FILE = """
[limits.provider]
concurrency = 4
rate = "10/1m"
[limits.gpu]
concurrency = 2
[limits.maintenance]
[queues.nightly]
limits = { provider = 2 }
[profiles.train]
command = ["true"]
queue = "nightly"
limits = { gpu = 1 }
"""


def loaded(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "dispatcher.toml"
    file.write_text(text)
    return load(str(file), {"HOME": "/home/somebody"})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return loaded(tmp_path, FILE)


def test_a_limit_has_a_number_a_rate_both_or_neither(config: Config) -> None:
    rules = {name: one.rule for name, one in config.limits.items()}

    assert {
        "provider": Rule(concurrency=4, rate=Rate(10, Milliseconds(60_000))),
        "gpu": Rule(concurrency=2),
        "maintenance": Rule(),
    } == rules


def test_a_task_takes_the_limits_of_its_queue_and_profile_and_its_own_win(config: Config) -> None:
    assert {} == new_task(config, ["true"], {}).takes
    assert {"provider": 2} == new_task(config, ["true"], {"queue": "nightly"}).takes
    assert {"provider": 2, "gpu": 1} == new_task(config, [], {"profile": "train"}).takes
    own = new_task(config, [], {"profile": "train", "limits": {"provider": 1, "maintenance": 9}})
    assert {"provider": 1, "gpu": 1, "maintenance": 9} == own.takes


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"provder": 1}, "limit: there is no limit 'provder'; did you mean 'provider'?"),
        ({"x": 1}, "; configured are: gpu, maintenance, provider; or add [limits.x]"),
        ({"gpu": 3}, "limit: gpu: must be from 1 to 2, not 3, or it could never start"),
        ({"provider": 5}, "limit: provider: must be from 1 to 4, not 5, or it could never start"),
        ({"gpu": 0}, "limit: gpu: must be from 1 to 2, not 0"),
    ],
)
def test_a_limit_that_a_task_cannot_take_is_refused(
    config: Config, limits: dict[str, int], said: str
) -> None:
    with pytest.raises(InvalidTask) as refused:
        new_task(config, ["true"], {"limits": limits})

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[limits.a]\nrate = "0/1m"', "limits.a.rate: a rate of 0 lets nothing start"),
        ('[limits.a]\nrate = "often"', "limits.a.rate: 'often' is not a rate; write for example"),
        ("[limits.a]\nconcurrency = 0", "limits.a.concurrency: expected an integer >= 1"),
        ("[limits.a]\nburst = 1", "limits.a.burst: unknown key"),
        ("[queues.q]\nlimits = { a = 1 }", "queues.q.limits: there is no limit 'a'"),
        (
            "[limits.a]\nconcurrency = 1\n[queues.q]\nlimits = { a = 2 }",
            "queues.q.limits: a: must be from 1 to 1, not 2, or it could never start",
        ),
    ],
)
def test_a_mistaken_limit_is_a_mistake_of_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Mistaken) as mistaken:
        loaded(tmp_path, text)

    assert said in str(mistaken.value)


def test_an_unknown_limit_of_a_profile_is_a_mistake_of_that_profile_alone(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILE + '[profiles.bad]\ncommand = ["true"]\nlimits = { x = 1 }\n')

    assert ["train"] == list(config.profiles)
    assert "profiles.bad.limits: there is no limit 'x'" in config.mistakes[0]
    with pytest.raises(ConfigError, match="'bad' has a mistake"):
        new_task(config, [], {"profile": "bad"})


def test_a_queue_has_a_breaker_with_its_cool_down(tmp_path: Path) -> None:
    text = '[queues.a]\nbreaker = "5 in 10m"\n[queues.b]\nbreaker = "1 in 1s"\n'
    text += 'breaker_cooldown = "9s"\n'
    rules = {name: one.rule for name, one in loaded(tmp_path, text).queues.items()}

    assert {
        "a": Rule(breaker=parse_breaker("5 in 10m", Milliseconds(60_000))),
        "b": Rule(breaker=parse_breaker("1 in 1s", Milliseconds(9_000))),
    } == rules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('breaker = "often"', "queues.q.breaker: 'often' is not a breaker; write for example"),
        ('breaker = "0 in 1m"', "queues.q.breaker: 0 failures are not from 1 to"),
        ('breaker_cooldown = "1m"', "queues.q.breaker_cooldown: there is no breaker; add it"),
        (
            'breaker = "5 in 1m"\nbreaker_cooldown = "0s"',
            "queues.q.breaker_cooldown: must be above",
        ),
    ],
)
def test_a_mistaken_breaker_is_a_mistake_of_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Mistaken) as mistaken:
        loaded(tmp_path, f"[queues.q]\n{text}\n")

    assert said in str(mistaken.value)
