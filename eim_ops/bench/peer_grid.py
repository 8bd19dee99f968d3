"""The settings that peers are tuned over, and which of them are worth reporting."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from eim_ops.bench.contenders import Contender, PeerSettings
from eim_ops.bench.curve import Point, lowest_curve
from eim_ops.peers.dds import DdsSettings
from eim_ops.peers.flowedit import FlowEditSettings
from eim_ops.peers.rf_inversion import RfInversionSettings
from eim_ops.peers.sdedit import SdeditSettings


def _grid(family: str, base: PeerSettings, **knobs: Sequence[Any]) -> list[Contender]:
    chosen = [dict(zip(knobs, values, strict=True)) for values in product(*knobs.values())]
    return [Contender(_name(family, its), family, replace(base, **its)) for its in chosen]


def _name(family: str, knobs: Mapping[str, float]) -> str:
    return " ".join([family, *(f"{knob}={value:g}" for knob, value in knobs.items())])


_GUIDANCES = (1.0, 1.5, 2.0, 3.0)
"""That fit a small model; ours is chosen among the same."""


def peer_grid() -> list[Contender]:
    """Every peer at every setting that it is tuned over: its main knobs, and as it was published."""
    published: Mapping[str, PeerSettings] = {
        "sdedit": SdeditSettings(),
        "flowedit": FlowEditSettings(),
        "rf_inversion": RfInversionSettings(),
        "dds": DdsSettings(),
    }
    whole, half = FlowEditSettings(28, 28), FlowEditSettings(14, 14)
    return [
        *(Contender(f"{family} published", family, its) for family, its in published.items()),
        *_grid("sdedit", SdeditSettings(steps=28), strength=(0.5, 0.65, 0.8, 0.9), guidance=_GUIDANCES),
        *_grid("flowedit", whole, last=(22, 25, 28), source_guidance=(1.0, 1.5, 2.0), target_guidance=(1.5, 2.0, 3.0)),
        *_grid("flowedit", whole, last=(22, 25, 28), source_guidance=(1.0,), target_guidance=(1.0,)),
        *_grid("flowedit", half, steps=(14,), last=(12, 14), source_guidance=(1.5,), target_guidance=(1.5, 2.0)),
        *_grid("flowedit", half, steps=(14,), last=(12, 14), source_guidance=(1.0,), target_guidance=(1.0,)),
        *(its for steps, guidance in product((7, 10), (1.0, 1.5)) for its in _few_steps(steps, guidance)),
        *_grid(
            "rf_inversion",
            RfInversionSettings(),
            eta=(0.3, 0.5, 0.7, 0.9),
            controlled=(7, 14),
            guidance=_GUIDANCES,
        ),
        *_grid("dds", DdsSettings(iterations=100), learning_rate=(0.05, 0.1, 0.2), guidance=_GUIDANCES),
    ]


def _few_steps(steps: int, guidance: float) -> list[Contender]:
    knobs = {"steps": (steps,), "last": (steps,), "source_guidance": (guidance,), "target_guidance": (guidance,)}
    return _grid("flowedit", FlowEditSettings(14, 14), **knobs)


def quick_peers() -> list[Contender]:
    """One setting of each peer that is not tuned and takes few evaluations: to see that all run."""
    return [
        Contender("sdedit", "sdedit", SdeditSettings(steps=28, strength=0.8, guidance=3.0)),
        Contender("flowedit", "flowedit", FlowEditSettings(14, 14, source_guidance=1.5, target_guidance=1.5)),
        Contender("rf_inversion", "rf_inversion", RfInversionSettings(steps=14, guidance=3.0)),
        Contender("dds", "dds", DdsSettings(iterations=25, learning_rate=0.2, guidance=1.0)),
    ]


def frontier(points: Mapping[str, Point]) -> list[str]:
    """Names of those (effect, cost) that a mixture of settings can gain by, by rising effect: the corners of the lowest
    curve from its cheapest on."""
    corners = lowest_curve([*points.values()])
    cheapest = min(corners, key=lambda corner: (corner[1], -corner[0]))
    names = {point: name for name, point in [*points.items()][::-1]}
    return [names[corner] for corner in corners if corner[0] >= cheapest[0]]
