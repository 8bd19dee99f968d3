"""Models by name: what pins them, and hub ids as a cache has them, without a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError

from eim_ops.backbones.registry import UnknownFamilyError
from eim_ops.named_models import load_backbone, load_captioner, model_revision
from tests.eim_ops.backbones.tiny import PIPELINES
from tests.eim_ops.captioning.test_vlm_families import captioner, llava, saved

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(folder: Path, cache: Path, name: str) -> None:
    """Puts a folder into a hub cache, as this commit of a model."""
    shutil.copytree(folder, cache / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT)


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc", COMMIT[:12], COMMIT.upper()])
def test_a_revision_that_is_no_commit_is_refused_with_the_mend(revision: str) -> None:
    for load in (model_revision, load_backbone, load_captioner):
        with pytest.raises(ValueError, match=rf"'owner/name' has the revision '{revision}', .* `git ls-remote https"):
            load("owner/name", revision)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/merges.txt", "spiece.model", "chat_template.jinja"])
def test_a_folders_revision_changes_with_every_file_that_a_model_is_made_of(name: str, tmp_path: Path) -> None:
    def revision(text: str) -> str:
        folder = tmp_path / text
        (folder / "tokenizer").mkdir(parents=True)
        (folder / name).write_text(text)
        (folder / "README.md").write_text(text)
        return model_revision(str(folder))

    assert revision("one") != revision("two")


def test_models_of_the_hub_load_from_a_cache_offline_and_name_their_commit(tmp_path: Path) -> None:
    PIPELINES["flux-schnell"]().save_pretrained(tmp_path / "backbone")
    saved(captioner(llava), tmp_path / "vlm")
    cached(tmp_path / "backbone", tmp_path / "cache", "owner/backbone")
    cached(tmp_path / "vlm", tmp_path / "cache", "owner/vlm")
    code = (
        "from eim_ops.named_models import load_backbone, load_captioner\n"
        f"backbone = load_backbone('owner/backbone', {COMMIT!r}, 'cpu')\n"
        f"captioner = load_captioner('owner/vlm', {COMMIT!r}, 'cpu')\n"
        "print(backbone.name, backbone.revision, captioner.name, captioner.revision)\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["owner/backbone", COMMIT, "owner/vlm", COMMIT], done.stderr[-2000:]


def test_a_model_of_the_hub_without_the_layout_and_a_hub_that_is_silent_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(error: Exception) -> None:
        def download(*arguments: object, **settings: object) -> str:
            raise error

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)

    response = Mock(status_code=404, headers={})
    fails(RemoteEntryNotFoundError("404 Client Error", response=response))
    with pytest.raises(UnknownFamilyError, match=r"owner/name: no model_index.json; give a model in the layout"):
        load_backbone("owner/name", COMMIT)
    fails(LocalEntryNotFoundError("Please check your connection"))
    with pytest.raises(ConnectionError, match=r"owner/name: model_index.json is not in .*hub gave no answer; check"):
        load_backbone("owner/name", COMMIT)
    fails(RepositoryNotFoundError("Repository Not Found", response=response))
    with pytest.raises(RepositoryNotFoundError):
        load_backbone("owner/name", COMMIT)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_backbone_whose_weights_are_pickled_is_refused(family: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family]()
    pipeline.save_pretrained(tmp_path)
    (weights,) = (tmp_path / "transformer").glob("*.safetensors")
    weights.unlink()
    torch.save(pipeline.transformer.state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(OSError, match=r"safetensors"):
        load_backbone(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("library", "kind"), [("transformers", "AutoTokenizer"), ("code", "Tokenizer"), ("transformers_modules", "Own")]
)
def test_a_part_that_could_be_code_of_its_own_is_refused_and_not_run(
    library: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "code-was-run"
    PIPELINES["flux-schnell"]().save_pretrained(tmp_path)
    (tmp_path / "tokenizer" / "code.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Tokenizer: pass\n")
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"tokenizer": [library, kind]}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(
        UnknownFamilyError, match=rf"its tokenizer is {library}'s {kind}, which could be code of its own"
    ):
        load_backbone(str(tmp_path), device="cpu")
    assert not mark.exists()
