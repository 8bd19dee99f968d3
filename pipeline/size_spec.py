"""The recipe's sizes: one for all images, or aspect buckets; and at which size the edited image is stored."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from eim_ops.aspect_buckets import Size, aspect_factor

_LEAST, _MOST, _STEP = 16, 4096, 8
_SIDES = f"sides are multiples of {_STEP} from {_LEAST} to {_MOST}"

OutputSize = Literal["model", "source"]
"""`model`: as the model edited it. `source`: exactly as the upright source, of which nothing is cut."""


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _LEAST <= value <= _MOST and value % _STEP == 0


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_side, value))


def _size(value: Any) -> int | Size | None:
    if value is None or _is_side(value):
        return value  # type: ignore[no-any-return]  # which was checked
    if _is_size(value):
        return Size(*value)
    raise ValueError(f"given {value!r}; give the side of a square in pixels, or [width, height]; {_SIDES}")


def _aspect_buckets(value: Any) -> bool | tuple[Size, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple) or not value or not all(map(_is_size, value)):
        raise ValueError(f"given {value!r}; give true, false or a list of [width, height]; {_SIDES}")
    sizes = tuple(Size(*size) for size in value)
    for place, size in enumerate(sizes):
        for other in sizes[:place]:
            if aspect_factor(size, other) == 1:
                raise ValueError(f"{list(other)} and {list(size)} have one aspect ratio; keep one of them")
    return sizes


SizeSpec = Annotated[int | Size | None, BeforeValidator(_size)]
BucketsSpec = Annotated[bool | tuple[Size, ...], BeforeValidator(_aspect_buckets)]


def check_sizes(size: int | Size | None, buckets: bool | tuple[Size, ...], direction: str) -> None:
    """Raises ValueError for keys that contradict each other."""
    if isinstance(buckets, tuple) and size is not None:
        raise ValueError("size: aspect_buckets lists the sizes; leave one of the two out")
    if buckets and isinstance(size, Size) and size.width != size.height:
        raise ValueError("size: with aspect_buckets: true it is the side of the square whose area they have")
    if buckets and direction == "shared":
        raise ValueError("direction: shared directions are of one size; leave aspect_buckets out, or direction: own")
