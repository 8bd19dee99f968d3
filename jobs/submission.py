"""What a submission is made of: the recipe as the working directory, the code of a checkout, the workers' environment.

The working directory holds the recipe alone, wherever the recipe lies, so a change of the recipe sends a few hundred
bytes. From a checkout the three packages go beside it as `py_modules`, which Ray keeps by their content: they are sent
again when they changed. An installed `eim` sends no code, since the nodes have it installed as well.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.captioner_spec import ModelSpec, VllmSpec
from pipeline.identity import canonical_json, sha256_bytes
from pipeline.recipe import Recipe, RecipeError

_RUNTIME_ENV = Path(__file__).with_name("runtime-env.yaml")
_PACKAGES = ("eim_ops", "pipeline", "jobs")
_SECRET = re.compile(r"(^|_)(SECRET|TOKEN|PASSWORD|CREDENTIALS?|KEY)(_|$)(?!.*(FILE|PATH)$)", re.IGNORECASE)
OUTPUT, ASK = "eim_output", "eim_ask"
"""Keys of a job's metadata: the output that it writes to, and what it was asked, as a hash."""


class SubmissionError(Exception):
    """What cannot be submitted; its text is for people."""


@dataclass(frozen=True)
class Submission:
    """What Ray's job server is asked for; the fields are arguments of `JobSubmissionClient.submit_job`."""

    submission_id: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of what the job gets in its environment."""
        return tuple(sorted(self.runtime_env["env_vars"]))


def build_submission(
    submission_id: str,
    job: str,
    recipe: Recipe,
    recipe_file: Path,
    arguments: Sequence[str],
    code: Sequence[Path],
    more: Mapping[str, Any],
) -> Submission:
    """A submission of `python -m jobs.<job>`; the folder of `recipe_file` becomes its working directory.

    code: packages to send. more: a runtime environment of the user's. Raises SubmissionError where that cannot be.
    """
    environment = merged_environment(more)
    modules = [*(str(package) for package in code), *environment.pop("py_modules", ())]
    ask = canonical_json({"job": job, "recipe": recipe_file.read_text(), "arguments": list(arguments)})
    return Submission(
        submission_id,
        shlex.join(["python", "-m", f"jobs.{job}", recipe_file.name, *arguments]),
        {**environment, "working_dir": str(recipe_file.parent), **({"py_modules": modules} if modules else {})},
        {OUTPUT: recipe.output.rstrip("/"), ASK: sha256_bytes(ask.encode())[:16]},
    )


def code_to_send(wanted: bool | None) -> tuple[Path, ...]:
    """The packages that this process runs from; `wanted` None sends those of a checkout, which no node has."""
    root = Path(__file__).parents[1]
    sent = (root / "pyproject.toml").is_file() if wanted is None else wanted
    return tuple(root / name for name in _PACKAGES) if sent else ()


def read_environment(path: Path) -> Mapping[str, Any]:
    """A file with a runtime environment. Raises SubmissionError."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SubmissionError(f"--runtime-env: {path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise SubmissionError(f"--runtime-env: {path} is no mapping; give one such as {{env_vars: {{NAME: value}}}}")
    return found


def merged_environment(more: Mapping[str, Any]) -> dict[str, Any]:
    """What every job needs, and `more`, whose values come first. Raises SubmissionError."""
    ours = yaml.safe_load(_RUNTIME_ENV.read_text())
    if "working_dir" in more:
        raise SubmissionError("--runtime-env: working_dir holds the recipe; send code as py_modules")
    variables = more.get("env_vars", {})
    secrets = sorted(name for name in variables if _SECRET.search(str(name)))
    if secrets:
        raise SubmissionError(
            f"--runtime-env: {', '.join(secrets)} would be kept with the job, for all who may look at it; give secrets "
            "to the nodes: docs/cluster.md, Credentials"
        )
    excludes = [*ours["excludes"], *more.get("excludes", ())]
    return {**ours, **more, "env_vars": {**ours["env_vars"], **variables}, "excludes": excludes}


def check_places(recipe: Recipe, path: Path) -> None:
    """Raise RecipeError where a recipe names places that its job would not find, or would leave behind, on a node."""
    places = {
        "input.path": recipe.input.path,
        "input.manifest": recipe.input.manifest,
        "output": recipe.output,
        "caption_cache": recipe.caption_cache,
    }
    captioner = recipe.captioner
    models: dict[str, object] = {"model": recipe.model, "captioner": captioner}
    if isinstance(captioner, (ModelSpec, VllmSpec)):
        models["captioner.model"] = captioner.model
    # A name that is a folder here; others are shipped models, or come from the hub.
    here = {key: name for key, name in models.items() if isinstance(name, str) and Path(name).is_dir()}
    relative = {key: place for key, place in (places | here).items() if place and _is_relative(place)}
    if relative:
        lines = [f"  {key}: {place} is relative to this folder, which no node has" for key, place in relative.items()]
        mend = "give s3:// prefixes, or absolute paths of a folder that every node mounts"
        raise RecipeError("\n".join([f"{path}: nothing was submitted; {mend}", *lines]))


def _is_relative(place: str) -> bool:
    return "://" not in place and not Path(place).is_absolute()
