"""The environment that a task carries from its submitter's shell."""

import pytest

from dispatcher.environment import Environment
from dispatcher.errors import InvalidTask


def test_equal_variables_are_one_environment_in_whatever_order() -> None:
    first, second = Environment({"A": "1", "B": "2"}), Environment({"B": "2", "A": "1"})

    assert (first, first.checksum, hash(first)) == (second, second.checksum, hash(second))
    assert first != Environment({"A": "1"})


def test_variables_of_the_submitting_process_alone_are_left_out() -> None:
    kept = {"PATH": "/bin", "TERM": "xterm", "CUDA_VISIBLE_DEVICES": "1", "LISTEN_ADDR": "::"}
    outer = {"DISPATCHER_RUN": "u", "DISPATCHER_CONFIG": "c", "DISPATCHER_CLAIM_LOCK": "l"}
    unit = {"NOTIFY_SOCKET": "/run/n", "INVOCATION_ID": "i", "JOURNAL_STREAM": "8:1"}
    sockets = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "WATCHDOG_USEC": "1"}
    shell = {"_": "/bin/env", "PWD": "/here", "OLDPWD": "/", "SHLVL": "2", "COLUMNS": "80"}

    environment = Environment({**outer, **unit, **sockets, **shell, "LINES": "24", **kept})

    assert kept == environment.variables
    assert sorted(kept) == environment.names


def test_secrets_of_the_profile_whose_run_submits_are_left_out() -> None:
    given = {"TOKEN": "hunter2", "KEY": "hunter2", "A": "1", "DISPATCHER_SECRETS": "KEY TOKEN"}

    assert {"A": "1"} == Environment(given).variables


def test_functions_of_bash_and_empty_values_are_kept() -> None:
    given = {"BASH_FUNC_go%%": "() {  echo x\n}", "EMPTY": ""}

    assert given == Environment.from_json(Environment(given).text).variables


def test_its_repr_shows_no_value() -> None:
    assert "Environment(1 variables)" == repr(Environment({"TOKEN": "hunter2"}))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"A": "hunter2\udcff"}, "environment: A is not UTF-8"),
        ({"A\udcff": "hunter2"}, r"environment: A\\udcff is not UTF-8"),
        ({"A=B": "hunter2"}, "'A=B' cannot be given to a process"),
        ({"": "hunter2"}, "'' cannot be given to a process"),
        ({"A": "hunter2\0"}, "'A' cannot be given to a process"),
        ({"A": 5}, "its names and values must be texts"),
    ],
)
def test_a_variable_that_no_process_or_row_can_hold_is_refused_without_its_value(
    variables: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidTask, match=message) as refused:
        Environment(variables)

    assert "hunter2" not in str(refused.value)
