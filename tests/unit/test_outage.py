"""When a daemon tries a silent store again."""

import random

from dispatcher.errors import StoreUnavailable, StoreWithheld
from dispatcher.supervisor.outage import STORE_RETRY, Outage
from dispatcher.times import Instant

FIRST, MOST = STORE_RETRY

SILENT = StoreUnavailable("silent")
DENIED = StoreWithheld("denied")


def delays(outage: Outage, many: int) -> list[float]:
    """Return the delays after so many failures one after the other."""
    found, at = [], Instant(100.0)
    for _ in range(many):
        outage.record_failure(SILENT, at=at)
        assert outage.retry_at is not None
        found.append(outage.retry_at - at)
        at = outage.retry_at
    return found


def test_the_delays_double_up_to_the_longest() -> None:
    found = delays(Outage(), 7)

    assert [round(one, 6) for one in found] == [FIRST * 2**n for n in range(5)] + [MOST, MOST]


def test_the_daemons_of_a_lost_server_do_not_try_again_together() -> None:
    found = [delays(Outage(rng=random.Random(seed)), 8) for seed in range(20)]

    for number, nth in enumerate(zip(*found, strict=True)):
        assert len(set(nth)) == len(nth)
        longest = min(MOST, FIRST * 2**number)
        assert all(longest / 2 <= delay <= longest for delay in nth)


def test_an_outage_is_reported_again_once_it_shows_to_be_a_missing_right() -> None:
    outage, at = Outage(), Instant(100.0)
    reported = [outage.record_failure(one, at=at) for one in (SILENT, SILENT, DENIED, DENIED)]
    outage.record_success(at=at)
    reported += [outage.record_failure(one, at=at) for one in (DENIED, DENIED, SILENT)]

    assert [True, False, True, False, True, False, False] == reported
