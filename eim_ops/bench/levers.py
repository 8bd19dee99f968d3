"""Our settings, changed one at a time from the default: what each is worth. For choosing defaults, on tuning cases."""

from dataclasses import fields, replace
from typing import Any, get_args

from eim_ops.bench.contenders import Contender
from eim_ops.bench.spared import Spared
from eim_ops.bench.wording import Worded, Wording
from eim_ops.method import Method

_LEVERS: dict[str, tuple[Any, ...]] = {
    "guidance": (1.0, 1.25, 1.5, 2.0, 3.0),
    "free_guidance": (1.0, 1.25, 1.5, 2.0),
    "free_guidance_share": (0.25, 0.5, 0.75, 1.0),
    "sigma_max": (0.8, 0.9, 0.95, 1.0),
    "grid_shift": (0.5, 1.5, 2.0, 3.0),
    "noise": ("independent",),
    "steps": (4, 5, 6, 7, 10, 14, 20, 28),
    "trajectory": ("fixed_point", "midpoint", "euler", "coupled"),
    "image_half": ("none", "dds", "hsds"),
    "image_scale": (0.5, 2.0, 3.0),
    "text_scale": (0.9, 1.1, 1.25),
    "draws": (1, 2, 4, 8),
}
_HSDS_LEVERS: dict[str, tuple[Any, ...]] = {
    "iterations": (1, 4),
    "damping": (1e-2, 1e-1),
    "jacobian": ("source",),
    "draws": (8,),
}


def lever_contenders(default: Method | None = None) -> list[Contender]:
    """`eim`, then each setting at its other values; those of HSDS around the default with HSDS."""
    base = default or Method()
    hsds = replace(base, image_half="hsds")
    varied = [(f"{key}={value}", replace(base, **{key: value})) for key, values in _LEVERS.items() for value in values]
    varied += [
        (f"hsds {key}={value}", replace(hsds, **{key: value}))
        for key, values in _HSDS_LEVERS.items()
        for value in values
    ]
    named = [Contender(name, "eim", method) for name, method in varied if method != base]
    return [Contender("eim", "eim", base), *named]


def changed(text: str) -> Contender:
    """The default with other settings, as `key=value,key=value`. Raises ValueError with what is allowed."""
    default, pairs = Method(), [pair.strip().partition("=") for pair in text.split(",")]
    known = [field.name for field in fields(Method)]
    for key, _, _ in pairs:
        if key not in known:
            raise ValueError(f"{key!r} is no setting of the method; allowed: {', '.join(known)}")
    return Contender(text, "eim", replace(default, **{key: type(getattr(default, key))(its) for key, _, its in pairs}))


def wording_contenders(default: Method | None = None) -> list[Contender]:
    """`eim`, then with other prompts for the same request, then with the others' directions spared. They change what
    prompts state, so they take prompts from ground truth."""
    base = default or Method()
    named = [Contender(f"prompts {wording}", "eim", Worded(base, wording)) for wording in get_args(Wording)]
    return [Contender("eim", "eim", base), *named, Contender("others spared", "eim", Spared(base))]
