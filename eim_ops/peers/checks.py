"""Refusals of the peers' settings, in words that name key, value and what is allowed."""


def check_whole(key: str, value: int, low: int, high: int) -> None:
    """Raises ValueError unless `value` is a whole number in [low, high]."""
    if not (isinstance(value, int) and low <= value <= high):
        raise ValueError(f"{key} is {value!r}; allowed: a whole number from {low} to {high}")


def check_number(key: str, value: float, low: float, high: float, above: bool = False) -> None:
    """Raises ValueError unless `value` is in [low, high], or in (low, high] with `above`; NaN is in neither."""
    if not (low < value <= high if above else low <= value <= high):
        allowed = f"a number above {low:g}, at most {high:g}" if above else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{key} is {value!r}; allowed: {allowed}")
