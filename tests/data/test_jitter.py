"""Random changes of intensity: what they leave alone, their bounds, and gradients."""

from __future__ import annotations

import pytest
import torch

from nnunet_ext.data.jitter import intensity_jitter


@pytest.mark.parametrize("shape", [(2, 1, 12, 10), (2, 2, 6, 8, 10)])
def test_nothing_changes_without_strength_and_noise(shape):
    image = torch.randn(shape)
    torch.testing.assert_close(intensity_jitter(image, 0.0, 0.0), image)


@pytest.mark.parametrize("shape", [(4, 1, 12, 10), (4, 2, 6, 8, 10)])
def test_gradients_pass(shape):
    image = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def changed(x):
        torch.manual_seed(0)
        return intensity_jitter(x, 0.5, 0.3)

    # The random numbers are the same, so the slope along a small step in one pixel is the derivative.
    step = torch.zeros_like(image)
    # Not an extreme: these define the range within which gamma bends, and count as constants.
    middle = image[0, 0].flatten().argsort()[image[0, 0].numel() // 2]
    step[0, 0].view(-1)[middle] = 1e-6
    (gradient,) = torch.autograd.grad(changed(image)[0, 0].flatten()[middle], image)
    with torch.no_grad():
        slope = (changed(image + step) - changed(image - step))[0, 0].flatten()[middle] / 2e-6
    # The noise follows the image's deviation, which counts as a constant too.
    torch.testing.assert_close(gradient[0, 0].flatten()[middle], slope, rtol=0.2, atol=0)
    assert gradient.isfinite().all()


def test_a_constant_image_stays_finite():
    image = torch.full((2, 1, 8, 8), 3.0, requires_grad=True)
    changed = intensity_jitter(image, 0.5, 0.3)
    changed.sum().backward()
    assert changed.isfinite().all()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_images_of_a_batch_change_differently_and_smoothly():
    torch.manual_seed(0)
    line = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    changed = intensity_jitter(line.repeat(16, 1, 1, 1), 0.5, 0.0)
    assert changed.mean((1, 2, 3)).std() > 0.05
    # Neighbouring rows held the same; the field makes them differ, by less than independent values would.
    jumps = changed.diff(dim=2).abs().amax((1, 2, 3)) / changed.std((1, 2, 3))
    assert jumps.min() > 0
    assert jumps.max() < 1


def test_noise_is_no_more_than_asked_for():
    image = torch.randn(256, 1, 16, 16)
    noise = (intensity_jitter(image, 0.0, 0.3) - image).std((1, 2, 3)) / image.std((1, 2, 3))
    assert noise.max() < 0.3 * 1.25
    assert noise.max() > 0.2
    assert noise.min() < 0.1
