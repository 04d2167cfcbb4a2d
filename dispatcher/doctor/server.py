"""The checks of a PostgreSQL server that holds the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

from dispatcher.config.config import Config
from dispatcher.doctor.finding import Finding, bad, counts, from_error, ok, warning
from dispatcher.errors import DispatcherError
from dispatcher.nodes import NodeView, differing, viewed
from dispatcher.store.engine import transaction
from dispatcher.store.open import open_on_server, server_of
from dispatcher.times import wall_clock

if TYPE_CHECKING:
    from dispatcher.store.api import ReaderStore
    from dispatcher.store.server_facts import ServerFacts

#: Seconds to wait for the server.
PATIENCE: Final = 5.0

#: Milliseconds by which the host's clock may differ from the server's without a warning.
APART: Final = 1000

#: Seconds, or transactions of others, for which a snapshot may be held without a warning.
HELD: Final = 60
HELD_AGE: Final = 100_000

#: Seconds for which a session may hold locks without a warning: no statement of ours takes longer.
LOCKED: Final = 10

#: Dead rows of a table without a warning, and their ratio to its other rows.
DEAD: Final = 20_000
DEAD_RATIO: Final = 0.5

#: Part of the server's connections in use, and of its room for notifications, from which a warning
#: follows.
FULL: Final = 0.8
QUEUE_FILLED: Final = 0.5

_REMEDIES: Final = {
    "session": "end it when it is not needed: SELECT pg_terminate_backend({pid})",
    "standby": "see what reads there for so long, or set hot_standby_feedback = off on it",
    "prepared transaction": "end it: COMMIT PREPARED or ROLLBACK PREPARED '{name}'",
    "replication slot": "if its standby is gone: SELECT pg_drop_replication_slot('{name}')",
}


def server(config: Config, *, whole: bool = True) -> Iterator[Finding]:
    """Check the store on a server, then the server; if `whole`, count each task and run."""
    yield from _store(config, whole=whole)
    try:
        at = server_of(config.store_url, config.store_schema, patience=PATIENCE)
        from dispatcher.store import server_facts  # noqa: PLC0415 - with the driver

        facts = server_facts.read(at)
    except DispatcherError:
        return  # reported with the store
    yield ok("server", f"PostgreSQL {facts.version}, encoding UTF8")
    yield check_schemas(facts)
    yield from check_pooler(facts)
    yield check_role(facts, at.schema)
    yield check_clock(facts, wall_clock())
    yield check_encryption(facts, str(at.parameters.get("sslmode") or "prefer"))
    yield from check_settings(facts)
    yield check_connections(facts)
    yield check_notifications(facts)
    yield from check_locks(facts)
    yield from check_dead_rows(facts)


def _store(config: Config, *, whole: bool) -> Iterator[Finding]:
    url, schema = config.store_url, config.store_schema
    try:
        with closing(
            open_on_server(url, schema, config.state_dir, PATIENCE, create=False)
        ) as store:
            with transaction(store.engine, write=True):
                pass  # it shows the server's timeline, which a snapshot does not ask for
            counted = _counts(store) if whole else counts(None)
            with store.snapshot() as now:
                views = viewed(store.nodes(), {}, here=None, is_up=False, is_shared=True, now=now)
    except DispatcherError as error:
        yield from_error("store", error)
        return
    yield ok("store", f"{url}, schema {schema}, {store.identity}")
    yield counted
    yield from check_limits(views)


def _counts(store: ReaderStore) -> Finding:
    try:
        with store.snapshot():
            return counts(store.wrong_counts())
    except DispatcherError as error:
        return from_error("counts", error)


def check_limits(views: Iterable[NodeView]) -> Iterator[Finding]:
    """Name the limits of which the files of nodes say different things."""
    for limit, text in differing(views).items():
        remedy = "let the files of all hosts say the same, then: dispatcher reload"
        yield warning("limits", f"the limit {limit} differs: {text}", remedy)


def check_schemas(facts: ServerFacts) -> Finding:
    """Name the other stores: tasks may wait in one that was made under a mistaken name."""
    if not facts.others:
        return ok("schemas", "no other schema of this database holds a store")
    return ok("schemas", f"this database holds other stores, in: {', '.join(facts.others)}")


def check_role(facts: ServerFacts, schema: str) -> Finding:
    """Check what this role may do: a daemon needs all but the upgrade of the schema."""
    if facts.owner is None:
        return ok("role", f"{facts.role}; the schema {schema} is not there yet")
    if facts.denied:
        some = ", ".join(facts.denied[:3]) + (", …" if len(facts.denied) > 3 else "")
        return warning(
            "role",
            f"{facts.role} is denied what a daemon needs: {some}",
            f"for a daemon: GRANT {schema}_run TO {facts.role}, which docs/roles.sql makes",
        )
    if facts.is_owner:
        return ok("role", f"{facts.role} owns the schema {schema}")
    upgrades = f"{facts.owner} upgrades the schema: dispatcher migrate"
    return ok("role", f"{facts.role} may do what a daemon needs; {upgrades}")


def check_pooler(facts: ServerFacts) -> Iterator[Finding]:
    if facts.is_pooled:
        yield warning(
            "pooler",
            "a pooler is between this host and the server: statements are planned each time, in"
            " transaction mode daemons poll, and an upgrade that needs the store alone does not"
            " see who uses it",
            "let store.url name the server itself; a daemon has two connections",
        )


def check_clock(facts: ServerFacts, host_ms: int) -> Finding:
    """Compare the host's clock, which shows in dates alone, with the server's."""
    least = host_ms - facts.now - round(facts.took * 1000)
    apart = max(least, min(host_ms - facts.now, 0))
    if abs(apart) <= APART:
        return ok("clock", "the host's clock agrees with the server's, which is the store's")
    side = "ahead of" if apart > 0 else "behind"
    return warning(
        "clock",
        f"the host's clock is {abs(apart) / 1000:.0f} s {side} the server's, which is the store's:"
        " dates that people type and read here are wrong by that",
        "correct the clock that is wrong; timedatectl timesync-status",
    )


def check_encryption(facts: ServerFacts, mode: str) -> Finding:
    """Check the connection, to a pooler that only: the one beyond is not seen from here."""
    far = "pooler" if facts.is_pooled else "server"
    if not facts.is_distant:
        return ok("encryption", f"not needed: the {far} is on this host")
    if not facts.is_encrypted:
        return warning(
            "encryption",
            "what goes to the server and back is not encrypted, tasks' environments among it",
            "add sslmode=verify-full to store.url, unless the network is private",
        )
    if mode not in ("verify-full", "verify-ca"):
        return warning(
            "encryption",
            f"sslmode={mode}: encrypted, but whoever answers is taken for the server",
            "add sslmode=verify-full and sslrootcert to store.url",
        )
    return ok("encryption", f"TLS, sslmode={mode}")


def check_settings(facts: ServerFacts) -> Iterator[Finding]:
    """Check settings on which the promises depend, and those that get in the way."""
    settings = facts.settings
    for name in ("fsync", "full_page_writes"):
        if settings.get(name) == "off":
            text = f"{name} = off: a crash of the server's host may damage or lose the store"
            yield bad("server settings", text, f"set {name} = on, and restart the server")
    if settings.get("synchronous_commit") == "off":
        yield warning(
            "server settings",
            "synchronous_commit = off: a crash of the server forgets what was accepted just before",
            "set it to on, or leave it if that may happen",
        )
    for name in ("autovacuum", "track_counts"):
        if settings.get(name) == "off":
            yield warning(
                "server settings",
                f"{name} = off: nothing removes dead rows, and the queue gets slower and slower",
                f"set {name} = on",
            )
    limit = int(settings.get("transaction_timeout") or 0)
    if 0 < limit < PATIENCE * 1000:
        yield warning(
            "server settings",
            f"transaction_timeout = {limit} ms ends transactions that may take longer",
            "set it to 0 for the dispatcher's roles: ALTER ROLE … SET transaction_timeout = 0",
        )


def check_connections(facts: ServerFacts) -> Finding:
    most = int(facts.settings["max_connections"])
    most -= int(facts.settings.get("superuser_reserved_connections") or 0)
    text = f"{facts.connections} of {most} connections are in use"
    if facts.connections > most * FULL:
        return warning("connections", text, "raise max_connections, or see who has so many open")
    return ok("connections", text)


def check_notifications(facts: ServerFacts) -> Finding:
    """Name who keeps the server from dropping notifications that were read."""
    text = f"the queue of notifications is {facts.queue * 100:.0f} % full"
    if facts.queue < QUEUE_FILLED:
        return ok("notifications", text)
    text += "; from 90 % on commits wake no daemon"
    if facts.oldest is None:
        remedy = "end the session that listens (LISTEN) and is in a transaction for long"
        return warning("notifications", text, remedy)
    name, seconds = facts.oldest
    since = "" if seconds is None else f", for {seconds:.0f} s"
    return warning(
        "notifications",
        f"{text}. Of the sessions that may listen, {name} is in the oldest transaction{since}",
        _REMEDIES["session"].format(pid=name.split()[0]),
    )


def check_locks(facts: ServerFacts) -> Iterator[Finding]:
    """Name the sessions for which others may wait: those of people do not end by themselves."""
    for one in facts.lockers:
        if one.seconds is None or one.seconds < LOCKED:
            continue
        yield warning(
            "locks",
            f"session {one.name} has held locks on {one.tables} for {one.seconds:.0f} s: what"
            " concerns these rows waits",
            f"let it commit, or end it: SELECT pg_terminate_backend({one.name.split()[0]})",
        )


def check_dead_rows(facts: ServerFacts) -> Iterator[Finding]:
    """Name who holds a snapshot for long, and the table that suffers."""
    table, dead, live = facts.dead or ("", 0, 0)
    suffers = f"{dead} dead rows in {table}, {live} others" if table else "no table"
    for holder in facts.holders:
        is_old = holder.age >= HELD_AGE if holder.seconds is None else holder.seconds >= HELD
        if is_old:
            since = "" if holder.seconds is None else f" for {holder.seconds:.0f} s"
            yield warning(
                "dead rows",
                f"{holder.kind} {holder.name} has held a snapshot{since}, {holder.age} transactions"
                f" behind: what died since cannot be removed, and claims get slower ({suffers})",
                _REMEDIES[holder.kind].format(pid=holder.name.split()[0], name=holder.name),
            )
            return
    if dead > DEAD and dead > live * DEAD_RATIO:
        remedy = f"VACUUM {table}; and see whether autovacuum is on and keeps up"
        yield warning("dead rows", suffers, remedy)
    else:
        yield ok("dead rows", f"nobody holds them back; {suffers}")
