"""What the benchmark compares: ours in its variants, the peers at several guidances, and the ceiling."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from eim_ops.backbones.base import Backbone
from eim_ops.bench.cases import Case, sources, truths
from eim_ops.edit import EditTask, edit_images, full_batches, to_images, to_pixels
from eim_ops.method import Method
from eim_ops.peers.dds import DdsSettings, dds
from eim_ops.peers.flowedit import FlowEditSettings, flowedit
from eim_ops.peers.peer import Peer
from eim_ops.peers.rf_inversion import RfInversionSettings, rf_inversion
from eim_ops.peers.sdedit import SdeditSettings, sdedit


@dataclass(frozen=True)
class Contender:
    """One way to edit. method: ours with these settings. peer: another method with its settings bound. Neither: the
    ceiling, the true edited face through the autoencoder."""

    name: str
    method: Method | None = None
    peer: Peer | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its results depend on, for their names in storage."""
        if self.method is not None:
            return asdict(self.method)
        bound = getattr(self.peer, "keywords", {}).get("settings")
        return asdict(bound) if is_dataclass(bound) and not isinstance(bound, type) else {}


@dataclass(frozen=True)
class Edited:
    """Edits of the same cases at one strength: pixels uint8 (N, 64, 64, 3), and the evaluations of each edit."""

    strength: float
    pixels: np.ndarray
    evaluations: float


def _ours(name: str, **settings: Any) -> Contender:
    return Contender(name, method=Method(**settings))


def _peer(name: str, call: Any, settings: Any) -> Contender:
    return Contender(name, peer=partial(call, settings=settings))


CEILING = Contender("ceiling")
OURS: tuple[Contender, ...] = (
    _ours("eim"),
    *(_ours(f"eim_guidance_{w:g}", guidance=w) for w in (1.0, 1.5, 2.0, 3.0)),
    *(_ours(f"eim_coupled_{w:g}", trajectory="coupled", guidance=w) for w in (1.0, 2.0, 4.0)),
    *(_ours(f"eim_{half}", image_half=half, guidance=1.0) for half in ("none", "dds", "hsds")),
    *(_ours(f"image_only_{half}", image_half=half, text_scale=0.0, guidance=1.0) for half in ("dds", "hsds")),
)
"""`eim` is the default of recipes."""
RIVALS: tuple[Contender, ...] = (
    *(_peer(f"sdedit_{s:g}", sdedit, SdeditSettings(steps=28, strength=s, guidance=3.0)) for s in (0.6, 0.8)),
    _peer("dds", dds, DdsSettings(guidance=3.0)),
    *(
        _peer(f"flowedit_{w:g}", flowedit, FlowEditSettings(28, 25, source_guidance=1.5, target_guidance=w))
        for w in (1.5, 3.0, 5.0)
    ),
    *(_peer(f"rf_inversion_{e:g}", rf_inversion, RfInversionSettings(eta=e, guidance=3.0)) for e in (0.5, 0.9)),
)
"""Peers at guidances that fit this model, several of each: a curve, not a column."""
CONTENDERS: Mapping[str, Contender] = {contender.name: contender for contender in (CEILING, *OURS, *RIVALS)}


def run(
    contender: Contender, backbone: Backbone, cases: Sequence[Case], strengths: Sequence[float], batch: int
) -> list[Edited]:
    """Edit all cases: ours at every strength, peers and the ceiling at strength 1 alone."""
    if contender.method is not None:
        return _run_ours(contender.method, backbone, cases, strengths, batch)
    images = truths(cases) if contender.peer is None else sources(cases)
    before, pixels = backbone.evaluations, []
    batches = list(full_batches(len(cases), batch))
    for indices, real in batches:
        chosen = [cases[i] for i in indices]
        latents = backbone.encode_image(to_images([images[i] for i in indices]))
        if contender.peer is not None:
            source = backbone.encode_text([case.source_prompt for case in chosen])
            target = backbone.encode_text([case.target_prompt for case in chosen])
            empty, seeds = backbone.encode_text([""] * batch), [case.seed for case in chosen]
            latents = contender.peer(backbone, latents, source, target, empty, seeds)
        pixels.append(to_pixels(backbone.decode(latents))[:real])
    cost = (backbone.evaluations - before) / (len(batches) * batch)
    return [Edited(1.0, np.concatenate(pixels), cost)]


def _run_ours(
    method: Method, backbone: Backbone, cases: Sequence[Case], strengths: Sequence[float], batch: int
) -> list[Edited]:
    tasks = [[EditTask(str(place), (case.target_prompt,), s) for place, s in enumerate(strengths)] for case in cases]
    prompts, seeds = [case.source_prompt for case in cases], [case.seed for case in cases]
    with torch.no_grad():
        edited = list(edit_images(backbone, list(sources(cases)), prompts, tasks, method, seeds, batch))
    by_place = {(int(one.edit_id), one.row): one for one in edited}
    return [
        Edited(
            strength,
            np.stack([by_place[place, row].pixels for row in range(len(cases))]),
            float(np.mean([by_place[place, row].evaluations for row in range(len(cases))])),
        )
        for place, strength in enumerate(strengths)
    ]
