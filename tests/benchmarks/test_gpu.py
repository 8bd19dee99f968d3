"""The whole run on narrow models of the same classes, and what its figures rest on."""

import json
import math
import subprocess
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.build import SOURCE, build
from benchmarks.gpu.published import MODELS, narrow
from benchmarks.gpu.report import NOT_MEASURED, Report
from benchmarks.gpu.timing import flops_of

CPU = torch.device("cpu")
UNCOMPILED = (
    "product", "product_fp8", "velocity", "velocity_lever", "attention", "jvp_forward_mode", "jvp_differences", "vjp",
    "vjp_checkpointed", "edits", "diffusers_text_to_image", "diffusers_step_cache", "flowedit",
)  # fmt: skip


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    file = folder / "gpu.json"
    main(["--out", str(file), "--device", "cpu", "--steps", "1", "--budget", "0", *arguments])
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", ["sd3.5-medium", "flux.1-dev"])
def test_without_a_card_every_part_is_measured_on_narrow_models(name: str, tmp_path: Path) -> None:
    only = [argument for part in UNCOMPILED for argument in ("--only", part)]
    report = run(tmp_path, "--model", name, "--batch", "1", "--batch", "4", *only)
    assert report["device"] == "cpu" and "say nothing of a card" in report["models"]
    parts = report["parts"]
    why = {path: figures[NOT_MEASURED] for path, figures in parts.items() if NOT_MEASURED in figures}
    expected = {"product_fp8", f"{name}/attention/efficient", f"{name}/attention/cudnn"}
    expected |= {f"{name}/diffusers_step_cache"} if name.startswith("sd3") else set()
    assert set(why) <= expected, why
    rates = [parts[f"{name}/velocity/{rows}"] for rows in (1, 4)]
    assert all(0 < its["share_of_product"] < math.inf and its["evaluations_per_second"] > 0 for its in rates)
    edits = parts[f"{name}/edits"]
    assert edits["edits"] == edits["finite"] == 16 and edits["recompiles_after_warm_up"] == 0
    draws, iterations, branches = 4, 2, 2 if name.startswith("sd3") else 1
    shared = branches + draws * (4 + 5 * iterations) + 8
    assert edits["evaluations_per_edit"] == pytest.approx(shared / 4 + branches)
    assert edits["hsds_share_of_evaluations"] == pytest.approx((shared - branches) / (shared + 4 * branches))
    assert 0.2 < edits["hsds_share_of_seconds"] < 1
    flowedit = parts[f"{name}/flowedit"]
    assert flowedit["evaluations_per_edit"] == (4 if name.startswith("sd3") else 2)
    assert flowedit["edits_over_flowedit"] == edits["edits_per_second"] / flowedit["edits_per_second"]
    assert parts[f"{name}/jvp_differences"]["apart_from_forward_mode"] < 0.01


def test_compiled_blocks_are_traced_in_the_warm_up_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as ever, and run as traced: generating code for a CPU takes a minute and changes no count.
    compiled = partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    only = ("--only", "velocity_compiled", "--only", "edits_compiled")
    parts = run(tmp_path, "--model", "sd3.5-large", "--batch", "4", "--batch", "1", *only)["parts"]
    assert parts["sd3.5-large/compiled_first_call"]["blocks"] == 2
    edits = parts["sd3.5-large/edits_compiled"]
    for velocity in (parts["sd3.5-large/velocity_compiled/4"], parts["sd3.5-large/velocity_compiled/1"]):
        assert velocity["evaluations_per_second"] > 0 and velocity["frames_traced"] == 0
    assert edits["edits"] == 16 and edits["recompiles_after_warm_up"] == 0


def test_a_part_that_fails_is_recorded_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    report = Report(tmp_path / "r.json", {"device": "cpu"})

    def fail() -> dict[str, Any]:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    assert report.part("large/velocity/8", fail) is None
    assert report.part("large/velocity/1", lambda: {"seconds": 1.0}) is not None
    late = Report(tmp_path / "late.json", {}, seconds=0)
    assert late.part("large/edits", lambda: {"seconds": 1.0}) is None
    parts = json.loads((tmp_path / "r.json").read_text())["parts"]
    assert parts["large/velocity/8"][NOT_MEASURED] == "OutOfMemoryError: tried to allocate 3 GiB"
    assert parts["large/velocity/1"]["seconds"] == 1.0
    assert "seconds were over" in json.loads((tmp_path / "late.json").read_text())["parts"]["large/edits"][NOT_MEASURED]


@pytest.mark.parametrize("name", MODELS)
def test_counted_flops_are_those_of_its_layers_and_attentions(name: str) -> None:
    backbone = build(narrow(MODELS[name]), CPU, torch.float32)
    latents, sigma = backbone.encode_image(torch.zeros(1, 3, 64, 64)), torch.tensor(0.5)
    conditioning = backbone.encode_text([SOURCE])
    total = 0

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        total += 2 * output.numel() * layer.weight[0].numel()

    transformer = backbone.pipeline.transformer
    for layer in transformer.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(count)
    counted = flops_of(lambda: backbone.velocity(latents, sigma, conditioning))
    image, text = 16, conditioning.tokens.shape[1]
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    blocks = transformer.config.num_layers + getattr(transformer.config, "num_single_layers", 0)
    doubled = len(getattr(transformer.config, "dual_attention_layers", ()))
    attention = 4 * width * (blocks * (image + text) ** 2 + doubled * image**2)
    assert counted == pytest.approx(total + attention, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "billions"), [("sd3.5-medium", 2.243), ("sd3.5-large", 8.057), ("flux.1-dev", 11.901)]
)
def test_full_sizes_are_the_published_ones(name: str, billions: float) -> None:
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    model = MODELS[name]
    with torch.device("meta"):
        kind = SD3Transformer2DModel if model.family == "sd3" else FluxTransformer2DModel
        transformer = kind(**model.transformer)
    assert sum(its.numel() for its in transformer.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)


def test_it_runs_with_eim_ops_alone_and_no_ray(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--model", "sd3.5-medium", "--only", "product", "--only", "edits", "--steps", "1"]
    arguments += ["--budget", "0", "--out", str(tmp_path / "gpu.json")]
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'ray', 'pipeline', 'jobs', 'pydantic_settings', 's3fs', 'typer'}:\n"
        "            raise ImportError(f'{name} is not to be imported here')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from benchmarks.gpu.__main__ import main\n"
        f"main({arguments!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["device"] == "cpu" and report["parts"]["product"]["tflops"] > 0
    assert report["parts"]["sd3.5-medium/edits"]["finite"] == 16
