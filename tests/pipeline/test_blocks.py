"""How many blocks a stream holds."""

from pipeline.blocks import IN_FLIGHT, edited_blocks, most_waiting
from pipeline.placement import Cluster, Plan, plan_placement
from tests.pipeline.builders import make_recipe


def plan(cpus: float, gpus: float = 0, **recipe: object) -> Plan:
    return plan_placement(make_recipe(**recipe), Cluster(cpus, gpus), 1000, 16)


def test_as_much_may_wait_as_the_largest_pool_has_in_flight() -> None:
    assert most_waiting(plan(2).pools) == IN_FLIGHT
    assert most_waiting(plan(32, 8).pools) == IN_FLIGHT * 6


def test_what_a_death_costs_is_in_flight_waiting_or_being_written() -> None:
    # Of two CPUs the actors have one, and one writes.
    assert edited_blocks(plan(2), 2) == 2 + (2 - 1) + 1
    # Eight actors of a CPU each, and 24 that write.
    assert edited_blocks(plan(32, 8), 32) == 6 * 2 + (12 - 1) + 24
