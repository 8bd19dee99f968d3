import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from eim_ops.metrics.psnr import psnr


def test_each_row_is_that_of_torchmetrics() -> None:
    a, b = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = [peak_signal_noise_ratio(x, y, data_range=2.0) for x, y in zip(a, b, strict=True)]
    assert psnr(a, b, 2.0).tolist() == pytest.approx([float(e) for e in expected], rel=1e-5)


def test_equal_images_get_a_hundred() -> None:
    assert psnr(torch.ones(2, 4), torch.ones(2, 4), 255.0).tolist() == [100, 100]
