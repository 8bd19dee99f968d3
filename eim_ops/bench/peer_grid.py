"""The settings that peers are tuned over, and which of them are worth reporting."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from eim_ops.bench.contenders import Contender, PeerSettings
from eim_ops.peers.dds import DdsSettings
from eim_ops.peers.flowedit import FlowEditSettings
from eim_ops.peers.rf_inversion import RfInversionSettings
from eim_ops.peers.sdedit import SdeditSettings


def _grid(family: str, base: PeerSettings, **knobs: Sequence[Any]) -> list[Contender]:
    chosen = [dict(zip(knobs, values, strict=True)) for values in product(*knobs.values())]
    return [Contender(_name(family, its), family, replace(base, **its)) for its in chosen]


def _name(family: str, knobs: Mapping[str, float]) -> str:
    return " ".join([family, *(f"{knob}={value:g}" for knob, value in knobs.items())])


def peer_grid() -> list[Contender]:
    """Every peer at every setting that it is tuned over: its main knobs, at guidances that fit a small model."""
    return [
        *_grid("sdedit", SdeditSettings(steps=28), strength=(0.5, 0.65, 0.8, 0.9), guidance=(1.5, 3.0)),
        *_grid(
            "flowedit",
            FlowEditSettings(steps=28, last=28),
            last=(22, 25, 28),
            source_guidance=(1.0, 1.5, 2.0),
            target_guidance=(1.5, 2.0, 3.0),
        ),
        *_grid(
            "flowedit",
            FlowEditSettings(source_guidance=1.5, last=14),
            steps=(14,),
            last=(12, 14),
            target_guidance=(1.5, 2.0),
        ),
        *_grid(
            "rf_inversion",
            RfInversionSettings(),
            eta=(0.3, 0.5, 0.7, 0.9),
            controlled=(7, 14),
            guidance=(1.0, 3.0),
        ),
        *_grid("dds", DdsSettings(iterations=100), learning_rate=(0.05, 0.1, 0.2), guidance=(1.0, 3.0)),
    ]


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names whose (gain, loss) no other betters in both, in order of gain; of equal points the first."""
    front: list[str] = []
    for name, (_, loss) in sorted(points.items(), key=lambda item: (-item[1][0], item[1][1])):
        if not front or loss < points[front[-1]][1]:
            front.append(name)
    return front[::-1]


def thinned(front: Sequence[str], most: int) -> list[str]:
    """At most `most` of a front, evenly, its strongest end always among them."""
    if len(front) <= most:
        return list(front)
    places = [round(i * (len(front) - 1) / (most - 1)) for i in range(most)] if most > 1 else [len(front) - 1]
    return [front[place] for place in places]
