"""The typed description of one face, and how faces are drawn at random."""

from dataclasses import dataclass, replace

import numpy as np

from eim_ops.faces.attributes import ATTRIBUTES, BY_NAME


@dataclass(frozen=True)
class Face:
    """Ground truth of one image. Continuous attributes and nuisances lie in [0, 1]; .5 is the middle."""

    age: float
    skin: str
    face_width: float
    hair_color: str
    hair_length: float
    smile: float
    eyes: float
    glasses: str
    beard: str
    hat: str
    background: str
    lighting: float
    x: float = 0.5
    y: float = 0.5
    scale: float = 0.5
    eye_gap: float = 0.5
    nose: float = 0.5
    shirt: float = 0.5

    def __post_init__(self) -> None:
        for attribute in ATTRIBUTES:
            value = getattr(self, attribute.name)
            if attribute.kind == "categorical" and value not in attribute.values:
                raise ValueError(f"face.{attribute.name} is {value!r}; allowed: {', '.join(attribute.values)}")
            if attribute.kind == "continuous" and not 0 <= value <= 1:
                raise ValueError(f"face.{attribute.name} is {value!r}; allowed: a number from 0 to 1")

    def edited(self, attribute: str, index: int) -> "Face":
        """The same face with `attribute` at value `index` (the middle of its grade, if continuous)."""
        spec = BY_NAME[attribute]
        value = spec.grade_center(index) if spec.kind == "continuous" else spec.values[index]
        return replace(self, **{attribute: value})  # type: ignore[arg-type]


NUISANCES = ("x", "y", "scale", "eye_gap", "nose", "shirt")


def sample_face(rng: np.random.Generator, correlated: bool = False) -> Face:
    """Draw a face. Independent: each attribute uniform. Correlated: grey hair, glasses and a short
    haircut come with age, a beard with a hat, a smile with light, a plump face with wide eyes."""
    values: dict[str, float | str] = {}
    for attribute in ATTRIBUTES:
        if attribute.kind == "continuous":
            values[attribute.name] = float(rng.random())
        else:
            values[attribute.name] = attribute.values[int(rng.integers(len(attribute.values)))]
    nuisances = {name: float(rng.random()) for name in NUISANCES}
    if correlated:
        _correlate(values, rng)
    return Face(**values, **nuisances)  # type: ignore[arg-type]


def _correlate(values: dict[str, float | str], rng: np.random.Generator) -> None:
    """Replace independent draws by dependent ones, in place. Each rule fires with probability .8."""
    age, light, width = float(values["age"]), float(values["lighting"]), float(values["face_width"])

    def near(center: float) -> float:
        return float(np.clip(center + 0.15 * rng.standard_normal(), 0, 1))

    fires = rng.random(6) < 0.8
    if fires[0]:
        values["hair_color"] = "grey" if age > 0.6 else ("black", "brown", "blond", "red")[int(rng.integers(4))]
    if fires[1]:
        values["glasses"] = "round" if age > 0.5 else ("none", "sunglasses")[int(rng.integers(2))]
    if fires[2]:
        values["hair_length"] = near(1 - age)
    if fires[3]:
        values["beard"] = "none" if values["hat"] == "none" else ("short", "full")[int(rng.integers(2))]
    if fires[4]:
        values["smile"] = near(light)
    if fires[5]:
        values["eyes"] = near(width)
