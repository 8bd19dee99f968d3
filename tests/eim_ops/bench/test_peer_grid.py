from hypothesis import given
from hypothesis import strategies as st

from eim_ops.bench.peer_grid import pareto, peer_grid, thinned
from eim_ops.peers.peer import PEERS


def test_every_peer_is_tuned_over_several_settings_of_its_own_name() -> None:
    grid = peer_grid()
    assert {peer.family for peer in grid} == set(PEERS)
    assert len({peer.name for peer in grid}) == len(grid) == len({str(peer.content) for peer in grid})
    assert all(sum(peer.family == family for peer in grid) >= 6 for family in PEERS)


@given(st.dictionaries(st.text(max_size=2), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9))
def test_the_front_is_what_no_other_betters(points: dict[str, tuple[float, float]]) -> None:
    front = pareto(points)
    values = [points[name] for name in front]
    assert values == sorted(values) and len({gain for gain, _ in values}) == len(values)
    for gain, loss in points.values():
        assert any(g >= gain and cost <= loss for g, cost in values)


@given(st.integers(1, 12), st.integers(1, 4))
def test_thinning_keeps_the_strongest_and_the_order(size: int, most: int) -> None:
    front = [str(i) for i in range(size)]
    kept = thinned(front, most)
    assert len(kept) == min(size, most) and kept[-1] == front[-1] and kept == sorted(kept, key=int)
