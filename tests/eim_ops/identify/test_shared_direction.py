import copy
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.identify.shared import DirectionError, SharedDirection, load_direction, save_direction
from eim_ops.joint import Conditioning, Direction
from eim_ops.method import Method
from eim_ops.mini.train_dit import PROMPT_TOKENS

SOURCES = (
    "a portrait with young age, deep frown",
    "a portrait, with old age, slight frown",
    "a portrait with pale skin, DEEP frown.",
)
TARGETS = (
    "a portrait with young age, broad smile",
    "a portrait with old age, broad smile",
    "a portrait with pale skin, broad smile",
)
TOKENS = PROMPT_TOKENS + 1


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_direction(rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Direction:
    """In the shapes of the tiny backbone: 8x16x16 latents, its tokens of width 32."""
    image, tokens, pooled = randn(rows, 8, 16, 16, seed=seed), randn(rows, TOKENS, 32, seed=seed + 1), randn(rows, 32)
    return Direction(image.to(dtype), Conditioning(tokens.to(dtype), pooled.to(dtype)))


def shared(seed: int = 0, dtype: torch.dtype = torch.float32) -> SharedDirection:
    return SharedDirection(
        random_direction(1, seed, dtype), "tiny-sd3", "0", "smile", "broad", SOURCES, TARGETS, ("ab" * 32, "cd" * 32),
        asdict(Method(damping=0.1)), 7,
    )  # fmt: skip


def tensors(direction: Direction) -> list[torch.Tensor]:
    return [direction.image, direction.text.tokens, direction.text.pooled]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and time of every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_loaded_is_what_was_saved(backbone: Sd3Backbone, tmp_path: Path, dtype: torch.dtype) -> None:
    saved = shared(dtype=dtype)
    content_id = save_direction(saved, tmp_path / "new" / "folder")
    loaded = load_direction(tmp_path / "new" / "folder" / content_id, backbone)
    for mine, its in zip(tensors(saved.direction), tensors(loaded.direction), strict=True):
        assert torch.equal(mine.float(), its) and its.dtype == torch.float32, "in the backbone's dtype"
    for field in fields(saved):
        if field.name != "direction":
            assert getattr(loaded, field.name) == getattr(saved, field.name)
    assert len(content_id) == 16 and int(content_id, 16) >= 0


def test_loaded_and_saved_again_it_is_the_same(backbone: Sd3Backbone, tmp_path: Path) -> None:
    content_id = save_direction(shared(), tmp_path)
    assert save_direction(load_direction(tmp_path / content_id, backbone), tmp_path) == content_id


def test_the_same_content_has_one_id_and_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content_id = save_direction(shared(), tmp_path)
    before, folder = files(tmp_path), (tmp_path / content_id).stat()
    assert set(before) == {f"{content_id}/direction.safetensors", f"{content_id}/direction.json"}
    for write in ("mkdir", "write_bytes", "write_text", "rename"):
        monkeypatch.delattr(Path, write)
    assert save_direction(shared(), tmp_path) == content_id
    assert files(tmp_path) == before and (tmp_path / content_id).stat().st_ino == folder.st_ino


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"}, {"model_revision": "1"}, {"attribute": "age"}, {"target": "deep"}, {"seed": 8},
        {"source_prompts": SOURCES[::-1]}, {"target_prompts": TARGETS[::-1]}, {"image_sha256s": ()},
        {"method": asdict(Method(damping=0.2))}, {"direction": shared(dtype=torch.bfloat16).direction},
        {"direction": shared().direction.scaled(torch.tensor([1.0]), torch.tensor([1 + 1e-6]))},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_any_other_content_has_another_id(tmp_path: Path, change: dict[str, object]) -> None:
    assert save_direction(replace(shared(), **change), tmp_path) != save_direction(shared(), tmp_path)  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_bytes_in_another_dtype_have_another_id(tmp_path: Path) -> None:
    narrow = shared(dtype=torch.bfloat16)
    text = narrow.direction.text
    reread = Direction(narrow.direction.image.view(torch.float16), text)
    assert save_direction(narrow, tmp_path) != save_direction(replace(narrow, direction=reread), tmp_path)


def test_many_writers_at_once_leave_one_whole_direction(backbone: Sd3Backbone, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: save_direction(shared(), tmp_path), range(16)))
    assert [path.name for path in tmp_path.iterdir()] == list(ids)
    assert load_direction(tmp_path / ids.pop(), backbone).attribute == "smile"


def test_another_writer_may_be_first(backbone: Sd3Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def after_another(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        assert save_direction(shared(), tmp_path) == target.name
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", after_another)
    content_id = save_direction(shared(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [content_id]
    assert load_direction(tmp_path / content_id, backbone).attribute == "smile"


@pytest.mark.parametrize("step", ["mkdir", "write_bytes", "write_text", "rename"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, step, full)
        save_direction(shared(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_json_has_no_number_for_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_direction(replace(shared(), method={"damping": float("nan")}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["direction.safetensors", "direction.json"])
def test_a_flipped_bit_is_detected_wherever_it_is(backbone: Sd3Backbone, tmp_path: Path, file: str) -> None:
    path = tmp_path / save_direction(shared(), tmp_path)
    whole = (path / file).read_bytes()
    positions = [*range(0, min(len(whole), 400), 3), *range(400, len(whole), 4001), len(whole) - 1]
    for position in positions:
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            (path / file).write_bytes(damaged)
            with pytest.raises(DirectionError, match=r"(damaged|changed).*identify and save the direction again"):
                load_direction(path, backbone)
    (path / file).write_bytes(whole)
    assert load_direction(path, backbone).seed == 7


def edit_json(path: Path, **changes: object) -> None:
    metadata = json.loads((path / "direction.json").read_text()) | changes
    (path / "direction.json").write_text(json.dumps(metadata))


def edit_tensors(path: Path) -> None:
    stored = load_file(path / "direction.safetensors")
    save_file({**stored, "image": stored["image"] * 2}, path / "direction.safetensors")


def use_a_dtype_that_torch_lacks(path: Path) -> None:
    header = json.dumps({"image": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (path / "direction.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1")


def replace_metadata(path: Path, text: str) -> None:
    (path / "direction.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: edit_json(path, attribute="age"), "direction.json or direction.safetensors was changed"),
        (lambda path: edit_json(path, seed=7.0), "was changed or damaged, or the folder renamed"),
        (lambda path: edit_json(path, seed=float("nan")), "was changed"),
        (lambda path: edit_json(path, extra=1), "was changed"),
        (edit_tensors, "was changed"),
        (lambda path: replace_metadata(path, "[]"), "was changed"),
        (lambda path: replace_metadata(path, "{"), "direction.json is damaged: .*delete this folder"),
        (lambda path: os.truncate(path / "direction.safetensors", 3000), "direction.safetensors is damaged: "),
        (lambda path: os.truncate(path / "direction.safetensors", 0), "direction.safetensors is damaged: "),
        (use_a_dtype_that_torch_lacks, "direction.safetensors is damaged: 'F8_E8M0'"),
        (lambda path: (path / "direction.json").unlink(), "direction.json is missing; give the folder"),
        (lambda path: (path / "direction.safetensors").unlink(), "direction.safetensors is missing; give the folder"),
    ],
)
def test_what_was_changed_is_detected_and_neither_loaded_nor_taken_as_saved(
    backbone: Sd3Backbone, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / save_direction(shared(), tmp_path)
    damage(path)
    with pytest.raises(DirectionError, match=message) as caught:
        load_direction(path, backbone)
    assert str(path) in str(caught.value)
    with pytest.raises(DirectionError, match=message):
        save_direction(shared(), tmp_path)


def test_a_renamed_or_missing_folder_is_named(backbone: Sd3Backbone, tmp_path: Path) -> None:
    path = tmp_path / save_direction(shared(), tmp_path)
    (tmp_path / "smile").symlink_to(path)
    assert load_direction(tmp_path / "smile", backbone).attribute == "smile", "a link may have any name"
    renamed = path.rename(tmp_path / "renamed")
    with pytest.raises(DirectionError, match=rf"hash to {path.name}, the folder's name says renamed.*name back"):
        load_direction(renamed, backbone)
    for wrong in (tmp_path / "nowhere", renamed / "direction.json"):
        with pytest.raises(DirectionError, match=r"direction\.json is missing; give the folder that save_direction"):
            load_direction(wrong, backbone)


def test_a_format_of_another_version_is_refused(
    backbone: Sd3Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("eim_ops.identify.shared._FORMAT", 2)
        path = tmp_path / save_direction(shared(), tmp_path)
    with pytest.raises(DirectionError, match=r"format 2, this version reads 1; .*the version that wrote it"):
        load_direction(path, backbone)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("name", "big-sd3", "belongs to model 'tiny-sd3', the backbone's is 'big-sd3'; load that model, or identify"),
        ("revision", "1", "belongs to model revision '0', the backbone's is '1'; load that model, or identify"),
        ("image_size", 32, r"has image of shape \(8, 16, 16\), tiny-sd3 at 32 px \(8, 8, 8\); load it"),
    ],
)
def test_another_model_revision_or_size_is_refused(
    backbone: Sd3Backbone, tmp_path: Path, attribute: str, value: object, message: str
) -> None:
    path = tmp_path / save_direction(shared(), tmp_path)
    other = copy.copy(backbone)
    setattr(other, attribute, value)
    with pytest.raises(DirectionError, match=message) as caught:
        load_direction(path, other)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("tokens", "pooled", "found"), [(16, 32, "tokens"), (32, 16, "pooled")])
def test_text_of_another_width_is_refused(
    backbone: Sd3Backbone, tmp_path: Path, tokens: int, pooled: int, found: str
) -> None:
    text = shared().direction.text
    narrow = Conditioning(text.tokens[..., :tokens].contiguous(), text.pooled[:, :pooled].contiguous())
    path = tmp_path / save_direction(replace(shared(), direction=Direction(shared().direction.image, narrow)), tmp_path)
    with pytest.raises(DirectionError, match=rf"has {found} of shape \(.*16,?\).*text encoders that"):
        load_direction(path, backbone)


def test_a_shared_direction_is_one_finite_row_with_prompts_in_pairs() -> None:
    with pytest.raises(ValueError, match="has one row, this one 2; average it first"):
        replace(shared(), direction=random_direction(2))
    broken = random_direction(1)
    broken.text.pooled[0, 0] = torch.nan
    with pytest.raises(ValueError, match="'smile' holds NaN or Inf; leave out"):
        replace(shared(), direction=broken)
    with pytest.raises(ValueError, match="3 source prompts but 2 target prompts; give each source its target"):
        replace(shared(), target_prompts=TARGETS[:2])
