"""How far an edit is from its source: PSNR and SSIM of 8-bit images, in numpy so that tasks need no torch."""

import numpy as np

_RADIUS, _SIGMA = 5, 1.5
_STRIP = 32
"""Rows at a time, so that what is computed with stays in the processor's cache."""
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
        image = np.moveaxis(image, axis, 0)
        size = len(image) - 2 * _RADIUS
        total = taps[_RADIUS] * image[_RADIUS : _RADIUS + size]
        for place in range(_RADIUS):  # the window is symmetric
            other = 2 * _RADIUS - place
            total += taps[place] * (image[place : place + size] + image[other : other + size])
        image = np.moveaxis(total, 0, axis)
    return image


def _likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each place of two float64 (H, W, C): (H - 10, W - 10, C)."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    squares, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances, covariance = _smooth(a * a + b * b) - squares, _smooth(a * b) - product
    return (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))


def ssim(edited: np.ndarray, source: np.ndarray) -> float:
    """Structural similarity of two uint8 (H, W, 3) images of at least 11 pixels a side (Wang et al. 2004, eq. 13)."""
    height, width, channels = edited.shape
    total, places = 0.0, height - 2 * _RADIUS
    for top in range(0, places, _STRIP):
        strip = slice(top, top + _STRIP + 2 * _RADIUS)
        total += float(_likeness(edited[strip].astype(np.float64), source[strip].astype(np.float64)).sum())
    return total / (places * (width - 2 * _RADIUS) * channels)
