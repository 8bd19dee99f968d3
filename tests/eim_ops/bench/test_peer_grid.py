from hypothesis import given
from hypothesis import strategies as st

from eim_ops.bench.curve import cost_at
from eim_ops.bench.peer_grid import frontier, peer_grid, quick_peers
from eim_ops.peers.peer import PEERS


def test_every_peer_is_tuned_over_several_settings_of_its_own_name_and_as_published() -> None:
    grid = peer_grid()
    assert {peer.family for peer in grid} == set(PEERS)
    assert len({peer.name for peer in grid}) == len(grid) == len({str(peer.content) for peer in grid})
    assert all(sum(peer.family == family for peer in grid) >= 12 for family in PEERS)
    assert {f"{family} published" for family in PEERS} <= {peer.name for peer in grid}


def test_every_peer_is_in_a_quick_run() -> None:
    assert {peer.family for peer in quick_peers()} == set(PEERS)


POINTS = st.dictionaries(st.text(max_size=2), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9)


@given(POINTS, st.floats(0, 1))
def test_a_mixture_of_the_frontier_costs_no_more_than_one_of_all(
    points: dict[str, tuple[float, float]], effect: float
) -> None:
    front = [points[name] for name in frontier(points)]
    assert cost_at(front, effect) == cost_at([*points.values()], effect)
    assert front == sorted(front) and [cost for _, cost in front] == sorted(cost for _, cost in front)
