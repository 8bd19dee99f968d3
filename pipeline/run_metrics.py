"""What a run tells Prometheus: the counting actor's numbers, at the metrics endpoint that Ray opens on each node.

Ray puts `ray_` before each name; the alert rules and the dashboard in `infra/observe/` use these names.
"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipeline.placement import Plan

STAGE_ROWS = "eim_stage_rows_total"
STAGE_SECONDS = "eim_stage_seconds_total"
EDITS = "eim_edits_total"
FAILURES = "eim_failures_total"
ASKED = "eim_edits_asked"
LEFT = "eim_edits_left"
EVALUATIONS = "eim_model_rows_total"
WAITING = "eim_stage_waiting_images"
ACTORS = "eim_pool_actors"
GPUS = "eim_pool_gpus"
NAMES = (STAGE_ROWS, STAGE_SECONDS, EDITS, FAILURES, ASKED, LEFT, WAITING, ACTORS, GPUS)
"""Of every run; EVALUATIONS is of runs whose model counts them."""


class RunMetrics:
    """The metrics of one run, each tagged with it."""

    def __init__(self, run: str, asked: int, plan: Plan) -> None:
        """`run`: the beginning of the fingerprint. `asked`: the edits that this run has to make."""
        self._run, self._open = run, asked
        self._rows = Counter(STAGE_ROWS, "rows that left a stage", ("run", "stage"))
        self._seconds = Counter(STAGE_SECONDS, "worker seconds in a stage", ("run", "stage"))
        self._evaluations = Counter(EVALUATIONS, "rows of model calls, each evaluation", ("run", "stage", "kind"))
        self._edits = Counter(EDITS, "edits in storage", ("run",))
        self._failures = Counter(FAILURES, "failure rows in storage", ("run", "stage", "error_type"))
        self._left = Gauge(LEFT, "edits of this run that have no row yet", ("run",))
        self._left.set(asked, {"run": run})
        Gauge(ASKED, "edits that this run has to make", ("run",)).set(asked, {"run": run})
        self._waiting = Gauge(WAITING, "images that wait for a pool", ("run", "stage"))
        actors = Gauge(ACTORS, "actors of a pool", ("run", "stage"))
        gpus = Gauge(GPUS, "GPUs that a pool reserves", ("run", "stage"))
        for stage, pool in plan.pools.items():
            actors.set(pool.size, {"run": run, "stage": stage})
            gpus.set(pool.size * pool.num_gpus, {"run": run, "stage": stage})

    def add(self, stage: str, count: int, seconds: float) -> None:
        """Count work of a stage."""
        self._increase(self._rows, count, stage=stage)
        self._increase(self._seconds, seconds, stage=stage)

    def waiting(self, stage: str, images: int) -> None:
        """Set how many images have left the stage before a pool and were not taken by it."""
        self._waiting.set(images, {"run": self._run, "stage": stage})

    def evaluated(self, stage: str, useful: float, evaluations: float) -> None:
        """Count rows of model calls: those that were asked for, and those that pad a batch or were in vain."""
        self._increase(self._evaluations, useful, stage=stage, kind="asked")
        self._increase(self._evaluations, evaluations - useful, stage=stage, kind="padding")

    def written(self, edits: int, failures: Mapping[tuple[str, str], int]) -> None:
        """Count rows in storage; failures by stage and error type."""
        self._increase(self._edits, edits)
        for (stage, error_type), count in failures.items():
            self._increase(self._failures, count, stage=stage, error_type=error_type)
        self._open -= edits + sum(failures.values())
        self._left.set(max(0, self._open), {"run": self._run})

    def _increase(self, counter: Counter, by: float, **tags: str) -> None:
        if by > 0:  # Ray refuses 0
            counter.inc(by, {"run": self._run, **tags})
