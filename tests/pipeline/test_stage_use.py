from pipeline.placement import Cluster, Plan, plan_placement
from pipeline.progress import _Counter
from pipeline.stage_use import StageUse, stage_uses
from pipeline.storage_metrics import Borne
from tests.pipeline.builders import make_recipe


def plan() -> Plan:
    pools = {"edit": {"size": 2}}
    return plan_placement(make_recipe(pools=pools), Cluster(8), images=100, edits_per_image=4)


def test_a_stage_is_busy_by_its_actors_and_full_by_what_was_asked_of_the_model() -> None:
    counter = _Counter("run", 8, plan())
    counter.add("load", 4, 1.0, Borne())
    counter.add("caption", 4, 2.0, Borne())
    counter.add("edit", 8, 12.0, Borne())
    counter.evaluated("edit", 30.0, 40)
    counter.evaluated("edit", 30.0, 40)
    uses = stage_uses(counter.counts(), plan(), seconds=10.0)
    assert uses == {
        "load": StageUse(4, 0.4, None, None, None),
        "caption": StageUse(4, 0.4, 0.2, None, 4),
        "edit": StageUse(8, 0.8, 0.6, 0.75, 4),
    }


def test_what_waits_for_a_pool_has_left_the_stage_before_and_was_not_taken() -> None:
    counter = _Counter("run", 8, plan())
    for _ in range(3):
        counter.add("load", 4, 0.0, Borne())
        counter.taken("caption", 4)
    counter.add("load", 4, 0.0, Borne())
    counter.add("load", 4, 0.0, Borne())
    assert counter.counts().waiting["caption"] == 8
    counter.taken("caption", 4)
    counter.taken("caption", 4)
    counter.taken("caption", 4)  # again, after a death
    assert counter.counts().waiting["caption"] == 8
