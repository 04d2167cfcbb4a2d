"""A daemon whose store's server is replaced by a replica that lacks its last commits."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.postgres import Postgres, replica_of, running, url_of

#: A command that fails if it ever runs twice at once, and says that it began.
ALONE = "exec 9>>lock.$0; flock -n 9 || exit 1; echo $DISPATCHER_FENCE >>began.$0; "
UNTIL_GO = "until test -e go.$0; do sleep 0.05; done"


@pytest.fixture
def primary(server_files: Path) -> Iterator[Postgres]:
    with running(server_files) as server:
        yield server


@pytest.fixture
def replica(primary: Postgres) -> Iterator[Postgres]:
    with replica_of(primary) as server:
        yield server


@pytest.fixture
def shared(primary: Postgres, replica: Postgres, world: World) -> World:
    """A world on both; it is made after them, so that their processes are not its own."""
    world.configure(store={"url": url_of(primary, replica)})
    return world


def began(world: World, name: str) -> list[int]:
    """Return the fences of the runs of a command that have begun."""
    file = world.directory / f"began.{name}"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def test_what_a_failover_forgot_is_ended_and_runs_again_and_the_rest_goes_on(
    shared: World, primary: Postgres, replica: Postgres
) -> None:
    with shared.daemon() as daemon:
        known = shared.submit("sh", "-c", ALONE + UNTIL_GO, "known")
        daemon.expect("run.started", task_id=known)
        shared.cli("pause", "later")
        ready = shared.submit("sh", "-c", ALONE + UNTIL_GO, "ready", queue="later")
        replica.catch_up(primary)
        replica.detach()
        shared.cli("resume", "later")
        daemon.expect("run.started", task_id=ready)
        lost = shared.submit("sleep", "1000")
        daemon.expect("run.started", task_id=lost)

        primary.stop(signal.SIGQUIT)
        replica.promote()

        daemon.expect("store.failed_over", timeline=2)
        daemon.expect("claims.postponed")
        assert lost < shared.submit("true")
        shared.cli("resume", "later")  # that it was resumed was forgotten too
        for name in ("known", "ready"):
            (shared.directory / f"go.{name}").touch()
        daemon.expect("claims.resumed")
        assert 0 == shared.cli("wait", known, ready).exit_code

    assert [1] == began(shared, "known")
    first, again = began(shared, "ready")
    assert (first, again > 2**40) == (1, True)
    assert ["succeeded"] == [run["outcome"] for run in shared.show(ready)["runs"]]
    ended = [*daemon.events("claim.lost"), *daemon.events("run.unknown")]
    assert 2 == len(ended)  # of `ready` and of the task that is forgotten itself
