"""`eim submit RECIPE --address http://HEAD:8265`: run a recipe's job on a cluster, and follow it. Also
`python -m jobs.submit RECIPE`."""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import augment, edit, sweep
from jobs.refusal import refuse
from jobs.submission import (
    Submission,
    SubmissionError,
    build_submission,
    check_places,
    code_to_send,
    read_environment,
)
from pipeline.recipe import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PASSES_OPTIONS_ON = {"ignore_unknown_options": True}
"""The command's context settings: what is no option of `submit` goes to the job."""


class Job(StrEnum):
    """What runs a recipe."""

    edit = "edit"
    sweep = "sweep"
    augment = "augment"


_COMMANDS: Mapping[Job, Callable[..., None]] = {
    Job.edit: edit.edit,
    Job.sweep: sweep.sweep,
    Job.augment: augment.augment,
}


def submit(
    recipe: Annotated[Path, typer.Argument(help="a YAML recipe; its input and output are on s3:// or a shared folder")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOB OPTIONS]...", help="options of the job itself, such as --retry-failed"),
    ] = None,
    address: Annotated[
        str,
        typer.Option(envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="of the job server, Ray's dashboard"),
    ] = "http://127.0.0.1:8265",
    job: Annotated[Job | None, typer.Option(help="by default sweep for a recipe with a sweep, else edit")] = None,
    runtime_env: Annotated[
        Path | None, typer.Option(help="a YAML file with more of Ray's runtime environment; no secrets")
    ] = None,
    code: Annotated[
        bool | None,
        typer.Option("--code/--no-code", help="send the code of this eim, or not; by default from a checkout"),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="print the job's id and leave it")] = False,
) -> None:
    """Run a recipe on a Ray cluster, show the job's log, and end with the job's exit code.

    The same command goes on: it follows the job where it still runs, and else submits what is left.
    """
    from jobs.job_server import JobServerError, connect, find_running, send, shown

    options = options or []
    try:
        checked, job = _checked(recipe, job)
        _check_options(job, recipe, options)
        more = read_environment(runtime_env) if runtime_env else {}
        sent = code_to_send(code)
        with tempfile.TemporaryDirectory(prefix="eim-submit-") as folder:
            copy = Path(shutil.copy(recipe, folder))
            submission = build_submission(_new_id(job), job.value, checked, copy, options, sent, more)
            client = connect(address)
            running = find_running(client, submission)
            if running is None:
                send(client, submission)
        if running is None:
            _tell(_summary(submission, shown(client.get_address()), sent))
        else:
            _tell(f"job {running} does this already")
        name = running or submission.submission_id
        if no_wait:
            print(name)
            return
        exit_code = _follow(client, name)
    except (RecipeError, SubmissionError, JobServerError) as error:
        refuse(error)
    raise typer.Exit(exit_code)


def _checked(path: Path, job: Job | None) -> tuple[Recipe, Job]:
    """The recipe and its job. Raises RecipeError where the job would refuse it, on a node or anywhere."""
    recipe = load_recipe(path)
    job = job or (Job.edit if recipe.sweep is None else Job.sweep)
    if job is Job.sweep:
        sweep.asked_sweep(recipe, path)
    check_places(recipe, path)
    return recipe, job


def _check_options(job: Job, recipe: Path, options: Sequence[str]) -> None:
    """Raise click's usage error where the job would not take its options."""
    app = typer.Typer(add_completion=False)
    app.command()(_COMMANDS[job])
    typer.main.get_command(app).make_context(f"eim {job}", [str(recipe), *options])


def _new_id(job: Job) -> str:
    """New each time: Ray takes an id once, and the same command has to go on after a stop."""
    return f"eim-{job}-{secrets.token_hex(4)}"


def _summary(submission: Submission, address: str, sent: Sequence[Path]) -> str:
    name = submission.submission_id
    return "\n".join(
        [
            f"job {name} at {address}: {submission.entrypoint}",
            f"  code: {f'sent from {sent[0].parent}' if sent else 'as it is installed on the nodes'}",
            f"  environment: {', '.join(submission.variables)}; keys and endpoint of the store are the nodes' own",
            f"  ray job logs {name} --address {address}",
            f"  ray job stop {name} --address {address}",
        ]
    )


def _follow(client: "JobSubmissionClient", name: str) -> int:
    from jobs.job_server import exit_code, follow, stop_line

    try:
        ended = follow(client, name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        _tell(f"\njob {name} goes on; the same command follows it, and this stops it: {stop_line(client, name)}")
        return 130
    code = exit_code(ended)
    _tell(f"job {name} {ended.status.value.lower()}, exit code {code}")
    if code and ended.driver_exit_code is None:
        _tell(ended.message or "")
    return code


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Any = None) -> None:
    """The command by itself."""
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command(context_settings=PASSES_OPTIONS_ON)(submit)
    app(arguments)


if __name__ == "__main__":
    main()
