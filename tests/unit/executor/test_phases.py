"""The table of a run's phases is closed, and only leads forwards."""

from dispatcher.executor.phases import MOVES, Phase


def test_every_phase_has_its_moves_and_each_leads_forwards() -> None:
    assert set(Phase) == set(MOVES)
    assert all(after > before for before, moves in MOVES.items() for after in moves.values())


def test_every_phase_is_reached_and_leads_to_the_last() -> None:
    reached = {Phase.STARTING, *(after for moves in MOVES.values() for after in moves.values())}

    assert set(Phase) == reached
    assert [Phase.GONE] == [phase for phase in Phase if not MOVES[phase]]
