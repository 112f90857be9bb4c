"""MIND-SSC equals the authors' program and is invariant as required."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from pretraining.imaging.mind import CHANNELS, mind_ssc


def volume(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(17, 23, 12), (9, 5, 31)])
@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 2), (1, 1), (2, 3), (0, 1)])
def test_as_the_authors_program(shape, radius, dilation):
    with warnings.catch_warnings():  # its import silences all warnings
        from convexAdam.convex_adam_utils import MINDSSC
    image = 1000 * volume(*shape)
    expected = MINDSSC(image[None, None], radius, dilation, device="cpu")[0]
    found = mind_ssc(image, radius=radius, dilation=dilation)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_contrast_and_brightness_do_not_matter():
    image = volume(11, 14, 9)
    for changed in (300 * image - 20, 1 - image):
        torch.testing.assert_close(mind_ssc(changed), mind_ssc(image), atol=1e-3, rtol=0)


def test_it_moves_with_the_image():
    image = volume(18, 17, 20)
    margin = slice(7, -7)  # of dilation, radius and shift
    shifted = mind_ssc(image.roll((1, -2, 3), (0, 1, 2)))[:, margin, margin, margin]
    expected = mind_ssc(image).roll((1, -2, 3), (1, 2, 3))[:, margin, margin, margin]
    # The mean variance, which bounds the local one, differs a little.
    torch.testing.assert_close(shifted, expected, atol=1e-4, rtol=0)


def test_axes_are_alike():
    """A permutation of the axes permutes the channels."""
    image = volume(11, 14, 9)
    found = mind_ssc(image.permute(2, 0, 1)).permute(0, 2, 3, 1)
    torch.testing.assert_close(found.sort(dim=0).values, mind_ssc(image).sort(dim=0).values, atol=1e-4, rtol=0)


def test_volumes_of_a_batch_do_not_see_each_other():
    images = torch.stack([volume(9, 8, 7), 1e4 * volume(9, 8, 7, seed=4)])[:, None]
    found = mind_ssc(images)
    assert found.shape == (2, CHANNELS, 9, 8, 7)
    for image, own in zip(images[:, 0], found, strict=True):
        torch.testing.assert_close(own, mind_ssc(image), atol=1e-6, rtol=0)


def test_a_constant_image_has_one_everywhere():
    assert torch.equal(mind_ssc(torch.full((6, 5, 4), 7.0)), torch.ones(CHANNELS, 6, 5, 4))


def test_its_range_and_type():
    found = mind_ssc((1000 * volume(10, 9, 8)).to(torch.int16))
    assert found.dtype == torch.float32 and found.min() > 0
    assert torch.equal(found.amax(dim=0), torch.ones(10, 9, 8))  # of the most similar pair


@pytest.mark.parametrize("settings", [{"radius": -1}, {"dilation": 0}])
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ValueError, match="need"):
        mind_ssc(volume(5, 5, 5), **settings)


@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 5, 5), (1, 2, 5, 5, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        mind_ssc(volume(*shape))
