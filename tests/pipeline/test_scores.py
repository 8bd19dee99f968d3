"""PSNR and SSIM: that strips and symmetric sums are the plain definition."""

import numpy as np
import pytest

from pipeline.scores import psnr, ssim


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, written down window by window."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps)[..., None] / taps.sum() ** 2
    c1, c2, likeness = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (image[top : top + 11, left : left + 11].astype(np.float64) for image in (a, b))
            mean_x, mean_y = (window * x).sum((0, 1)), (window * y).sum((0, 1))
            var_x, var_y = (window * (x - mean_x) ** 2).sum((0, 1)), (window * (y - mean_y) ** 2).sum((0, 1))
            covariance = (window * (x - mean_x) * (y - mean_y)).sum((0, 1))
            above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
            likeness.append(above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)))
    return float(np.mean(likeness))


@pytest.mark.parametrize("shape", [(11, 11, 3), (42, 20, 3), (43, 12, 3), (90, 15, 3)])
def test_ssim_is_its_definition_whatever_the_strips(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, shape, np.uint8)
    b = np.clip(a.astype(int) + random.integers(-40, 40, shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(plain_ssim(a, b), abs=1e-9)


def test_equal_images_are_as_alike_as_can_be() -> None:
    image = np.random.default_rng(1).integers(0, 256, (70, 30, 3), np.uint8)
    assert ssim(image, image) == pytest.approx(1.0)
    assert psnr(image, image) == 100
