import pytest
import torch

from eim_ops.mini.attribute_weight import attribute_weight


def test_small_attributes_weigh_more_than_the_ground_and_the_mean_is_one() -> None:
    weight = attribute_weight(lambda images: images)
    assert weight.shape == (1, 1, 64, 64) and float(weight.mean()) == pytest.approx(1)
    assert float(weight.min()) > 0.2
    mouth, corner = weight[0, 0, 40:48, 28:36].mean(), weight[0, 0, :8, :8].mean()
    assert mouth > 5 * corner


def test_it_is_of_the_space_that_images_are_taken_to() -> None:
    pooled = attribute_weight(lambda images: torch.nn.functional.avg_pool2d(images, 4))
    assert pooled.shape == (1, 1, 16, 16)
