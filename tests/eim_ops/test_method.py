import pytest

from eim_ops.method import Method


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("steps", 2.5, "a whole number from 1 to 1000"),
        ("sigma_max", 0, "a number above 0, at most 1"),
        ("grid_shift", 0.0, "a number from 0.1 to 10"),
        ("noise", "fresh", "antithetic, independent"),
        ("trajectory", "ddim", "fixed_point, midpoint, euler, coupled"),
        ("image_half", "sds", "hsds, dds, none"),
        ("jacobian", "both", "target, source"),
        ("iterations", 65, "a whole number from 1 to 64"),
        ("damping", -1.0, "a number from 0 to 1000000"),
        ("guidance", float("nan"), "a number above 0, at most 50"),
        ("free_guidance", 0, "a number above 0, at most 50"),
        ("free_guidance_share", 1.5, "a number above 0, at most 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_value_and_what_is_allowed(key: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"method.{key} is {value!r}; allowed: {allowed}"):
        Method(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "share", "guided"), [(10, 1.0, 10), (10, 0.5, 5), (7, 0.5, 4), (20, 0.55, 11), (1, 0.01, 1)]
)
def test_free_guidance_takes_part_in_its_share_of_the_steps(steps: int, share: float, guided: int) -> None:
    assert Method(steps=steps, free_guidance_share=share).free_guided_steps == guided
    assert Method(steps=steps, free_guidance_share=share, free_guidance=1.0).free_guided_steps == 0
