"""How much each measurement does."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of images, and seconds of a stub's edit. The defaults let a measurement end within about three minutes on
    two cores, but for `control_rows`, whose million rows take long to make and to verify."""

    efficiency_faces: int = 200
    rival_faces: int = 96
    flowedit_faces: int = 10
    sweep_faces: int = 16
    single_runs: int = 4
    """Of the 30 that the sweep replaces."""
    growth: tuple[int, int, int] = (100, 1_000, 10_000)
    growth_seconds: float = 0.001
    scaleout_images: int = 512
    scaleout_seconds: float = 0.2
    control_rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    listing_keys: tuple[int, int] = (10_000, 100_000)


QUICK = Sizes(4, 4, 1, 2, 1, (8, 16, 32), 0.001, 32, 0.02, (200, 400), (50, 100))
"""Only shows that it runs."""
