"""What goes to Ray's job server, for recipes and options that are given."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.submission import (
    ASK,
    OUTPUT,
    Submission,
    SubmissionError,
    build_submission,
    check_places,
    code_to_send,
    merged_environment,
    read_environment,
)
from pipeline.recipe import Recipe, RecipeError, parse_recipe

EDITS = [{"attribute": "smile", "target": "broad smile", "strengths": [1]}]
CHECKSUMS = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}


def recipe_of(**changes: Any) -> Recipe:
    keys = {"input": {"path": "s3://b/in"}, "output": "s3://b/out", "model": "mini-dit", "edits": EDITS}
    return parse_recipe({**keys, **changes})


def built(
    folder: Path, options: tuple[str, ...] = (), more: dict[str, Any] | None = None, **changes: Any
) -> Submission:
    recipe = recipe_of(**changes)
    file = folder / "my recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return build_submission("eim-1", "sweep", recipe, file, options, [Path("/checkout/jobs")], more or {})


def test_the_recipe_is_the_working_directory_and_the_code_goes_beside_it(tmp_path: Path) -> None:
    submission = built(tmp_path, ("--retry-failed",))
    command = ["python", "-m", "jobs.sweep", "my recipe.yaml", "--retry-failed"]
    assert shlex.split(submission.entrypoint) == command
    environment = submission.runtime_env
    assert (environment["working_dir"], environment["py_modules"]) == (str(tmp_path), ["/checkout/jobs"])
    assert environment["env_vars"] == CHECKSUMS
    assert submission.variables == tuple(sorted(CHECKSUMS))
    assert submission.metadata[OUTPUT] == "s3://b/out"


def test_equal_asks_are_known_and_others_are_told_apart(tmp_path: Path) -> None:
    first = built(tmp_path)
    assert built(tmp_path).metadata == first.metadata
    others = [built(tmp_path, ("--new-run",)), built(tmp_path, seed=1)]
    assert len({first.metadata[ASK], *(other.metadata[ASK] for other in others)}) == 3
    assert {other.metadata[OUTPUT] for other in others} == {"s3://b/out"}
    assert built(tmp_path, output="s3://b/out/").metadata[OUTPUT] == "s3://b/out"


def test_a_runtime_environment_of_the_users_adds_to_ours(tmp_path: Path) -> None:
    more = {"env_vars": {"HF_HOME": "/models"}, "py_modules": ["/mine"], "excludes": ["big/"], "pip": ["einops"]}
    environment = built(tmp_path, more=more).runtime_env
    assert environment["env_vars"] == {**CHECKSUMS, "HF_HOME": "/models"}
    assert environment["py_modules"] == ["/checkout/jobs", "/mine"]
    assert environment["pip"] == ["einops"]
    assert "big/" in environment["excludes"]
    assert "__pycache__" in environment["excludes"]


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "RAY_AUTH_TOKEN", "db_password"]
)
def test_secrets_are_refused_by_name(name: str) -> None:
    with pytest.raises(SubmissionError, match=f"{name} would be kept with the job") as refusal:
        merged_environment({"env_vars": {name: "hunter2"}})
    assert "hunter2" not in str(refusal.value)


def test_what_only_sounds_like_a_secret_is_taken() -> None:
    names = ("TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "AWS_WEB_IDENTITY_TOKEN_FILE", "KEYNOTE")
    assert merged_environment({"env_vars": dict.fromkeys(names, "1")})["env_vars"].keys() >= set(names)


def test_a_runtime_environment_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="working_dir holds the recipe"):
        merged_environment({"working_dir": "."})
    with pytest.raises(SubmissionError, match="cannot be read"):
        read_environment(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(SubmissionError, match="is no mapping"):
        read_environment(tmp_path / "list.yaml")


def test_a_checkout_sends_its_packages_and_may_leave_them() -> None:
    root = Path(__file__).parents[2]
    assert code_to_send(None) == tuple(root / name for name in ("eim_ops", "pipeline", "jobs"))
    assert code_to_send(True) == code_to_send(None)
    assert code_to_send(False) == ()


def test_an_installed_package_sends_nothing_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.submission.__file__", str(tmp_path / "jobs" / "submission.py"))
    assert code_to_send(None) == ()
    assert code_to_send(True) == tuple(tmp_path / name for name in ("eim_ops", "pipeline", "jobs"))


def test_places_that_no_node_has_are_refused_with_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    folders = {"output": "out", "caption_cache": "captions", "model": "model"}
    recipe = recipe_of(input={"manifest": "rows.csv"}, captioner="mini-vlm", **folders)
    with pytest.raises(RecipeError) as refusal:
        check_places(recipe, Path("r.yaml"))
    lines = str(refusal.value).splitlines()
    assert lines[0].startswith("r.yaml: nothing was submitted; give s3:// prefixes, or absolute paths")
    told = [line.split(":")[0].strip() for line in lines[1:]]
    assert told == ["input.manifest", "output", "caption_cache", "model"]
    for kind in ("model", "vllm"):
        with pytest.raises(RecipeError, match=r"  captioner\.model: model is relative to this folder"):
            check_places(recipe_of(captioner={"kind": kind, "model": "model"}), Path("r.yaml"))
    served = {"kind": "http", "url": "http://captions:8000/v1", "model": "model"}  # a name on another machine
    check_places(recipe_of(captioner=served), Path("r.yaml"))
    check_places(recipe_of(), Path("r.yaml"))
    mounted = {"input": {"path": "/shared/in"}, "output": "/shared/out"}
    check_places(recipe_of(**mounted, model="org/name", captioner="mini-vlm"), Path("r.yaml"))
