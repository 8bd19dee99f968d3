"""How far an edit is from its source: PSNR and SSIM of 8-bit images, in numpy so that tasks need no torch."""

import numpy as np

_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(edited: np.ndarray, source: np.ndarray) -> float:
    """dB between two uint8 images; 100 at most, which equal images get."""
    error = float(np.mean((edited.astype(np.float64) - source) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * float(np.log10(255**2 / error)))


def _smooth(image: np.ndarray) -> np.ndarray:
    """A Gaussian window of 11 x 11 over float64 (H, W, C), where it fits: (H - 10, W - 10, C)."""
    taps = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(image, len(taps), axis)
        image = windows @ taps
    return image


def ssim(edited: np.ndarray, source: np.ndarray) -> float:
    """Structural similarity of two uint8 (H, W, 3) images of at least 11 pixels a side (Wang et al. 2004, eq. 13)."""
    a, b = edited.astype(np.float64), source.astype(np.float64)
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a, var_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))))
