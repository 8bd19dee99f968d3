"""`python -m benchmarks.job RECIPE.json`: one `eim edit` or `eim sweep` in a process of its own, its parts clocked.

It is the command's own code (`pipeline/run_edit.py`) with the factories of its models wrapped: they note when a model
is loaded, and, with `--together`, no actor begins before all have theirs. So a warm rate counts no load, and nothing
is done before its clock starts except that the first blocks of images are read.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import clock


@dataclass(frozen=True)
class Clocked:
    """A factory that notes its start, its end and its node. actors: how many are to be loaded before any begins; 0: no
    wait."""

    make: Callable[[Any, str], Any]
    name: str
    actors: int

    def __call__(self, recipe: Any, device: str) -> Any:
        import ray

        clock.note(f"{self.name}-starts")
        made = self.make(recipe, device)
        clock.note("loaded")
        clock.note(f"{self.name}-loaded")
        clock.note(f"{self.name}-on-{ray.get_runtime_context().get_node_id()}")
        if self.actors:
            clock.wait_for("loaded", self.actors)
        return ClockedEditor(made) if self.name == "editor" else made


@dataclass(frozen=True)
class ClockedEditor:
    """An editor that notes when a call begins and ends."""

    edit: Any

    @property
    def revision(self) -> str:
        """The editor's own."""
        return self.edit.revision

    @property
    def evaluations(self) -> int:
        """The editor's own count."""
        return self.edit.evaluations

    def check_prompt(self, prompt: str) -> None:
        """The editor's own check."""
        self.edit.check_prompt(prompt)

    def __call__(self, *arguments: Any) -> Iterator[Any]:
        clock.note("edit-begins")
        yield from self.edit(*arguments)
        clock.note("edit-ends")


def main(
    recipe: Path,
    stub: Annotated[float | None, typer.Option(help="a fake model: seconds of sleep for each edit")] = None,
    together: Annotated[bool, typer.Option(help="no actor begins before all are loaded")] = False,
    cpus: Annotated[int | None, typer.Option(help="what Ray is told; else what there is, or a cluster's")] = None,
) -> None:
    """Run the recipe and print what it took as one JSON object."""
    clock.note("driver-starts")
    import ray

    from pipeline.cluster import cluster_resources, connect
    from pipeline.operations import real_operations
    from pipeline.placement import plan_placement
    from pipeline.recipe import load_recipe
    from pipeline.run_edit import run_edit

    clock.note("imported")
    checked = load_recipe(recipe)
    if cpus is None:
        connect(None)
    else:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    clock.note("connected")
    operations = real_operations() if stub is None else _stubs(stub)
    images = sum(1 for _ in Path(checked.input.path or "").glob("*.png"))
    plan = plan_placement(checked, cluster_resources(), images, 1)
    actors = plan.caption.size + plan.edit.size if together else 0
    operations = dataclasses.replace(
        operations,
        make_captioner=Clocked(operations.make_captioner, "captioner", actors),
        make_editor=Clocked(operations.make_editor, "editor", actors),
    )
    began, summary = time.time(), run_edit(checked, operations)
    clock.note("run-ends")
    spilled = spilled_bytes()
    ray.shutdown()
    clock.note("shut-down")
    result = {**dataclasses.asdict(summary), "began": began, "spilled_bytes": spilled, "pid": os.getpid()}
    print(json.dumps(result))


def _stubs(seconds: float) -> Any:
    from benchmarks.stubs import stub_operations

    return stub_operations(seconds)


def spilled_bytes() -> int:
    """Bytes that the object stores of all nodes have spilled to disk since Ray started."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    address = ray.get_runtime_context().gcs_address
    stats = get_memory_info_reply(get_state_from_address(address)).store_stats
    return int(stats.spilled_bytes_total + stats.object_store_bytes_fallback)


if __name__ == "__main__":
    typer.run(main)
