import numpy as np
import pytest
import torch

from eim_ops.mini import train_dit
from eim_ops.mini.shipped import shipped_path


def test_an_export_measures_its_spectrum_on_the_cpu_whatever_else_the_machine_has(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, rows = tmp_path_factory.mktemp("work"), train_dit._SPECTRUM_BATCH
    monkeypatch.setattr(
        "eim_ops.named_models.pick_device", lambda device: torch.device("meta" if device == "auto" else device)
    )
    monkeypatch.setattr(train_dit, "_SPECTRUM_FACES", rows)
    latents = work / "latents.npy"
    np.save(latents, np.random.default_rng(0).normal(size=(rows, 8, 16, 16)).astype(np.float32))
    spectrum = train_dit._conditional_spectrum(shipped_path("mini-dit"), latents)
    assert spectrum.shape == (8, 16, 16) and (spectrum > 0).all()
