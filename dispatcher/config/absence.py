"""How long a node's runs go on unconfirmed, and the times that keep two nodes off one task."""

from collections.abc import Iterator
from typing import Final

from dispatcher.config.section import LEAST_MARGIN, LEAST_SHARED_ABSENCE
from dispatcher.config.settings import ExecutorSection, LeasesSection
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.schema import is_shared

#: How long runs go on without a daemon if nothing is given and nodes share the store.
SHARED_ABSENCE: Final = Milliseconds(300_000)


#: In so many milliseconds of a limit a server's clock may run 100 ms ahead of a host's: each is
#: slewed by at most 1 in 2000.
_DRIFT: Final = 100_000


def limit(executor: ExecutorSection, store_url: str) -> Milliseconds | None:
    """Return how long runs may go on while no daemon confirms their claims; None: for ever."""
    if executor.absence_limit is None and is_shared(store_url):
        return SHARED_ABSENCE
    return executor.absence_limit_ms


def mistakes(executor: ExecutorSection, leases: LeasesSection, store_url: str) -> Iterator[str]:
    """Yield the times with which two nodes of a shared store might run one task: protocol 1.10."""
    if not is_shared(store_url) or (longest := limit(executor, store_url)) is None:
        return
    if longest < LEAST_SHARED_ABSENCE:
        yield (
            f"executor.absence_limit: {longest} is less than {LEAST_SHARED_ABSENCE}, which a"
            " healthy daemon may need to confirm its claims on a server; raise it"
        )
    least = Milliseconds(LEAST_MARGIN + longest // _DRIFT * 100)
    if (margin := leases.takeover_margin_ms) < least:
        yield (
            f"leases.takeover_margin: {margin} is less than {least}, 3 s and a thousandth of"
            f" absence_limit ({longest}), in which the executor of a node that was cut off may"
            " still be ending its runs; raise it"
        )
