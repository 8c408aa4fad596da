"""Mixing of low-frequency amplitudes, against loops over a dense transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ext.data.fourier import low_frequencies, mix_amplitude


def reference(image: np.ndarray, partner: np.ndarray, mix: float, share: float) -> np.ndarray:
    """Eqs. 1 and 2 of one channel over the full complex spectrum, frequency by frequency."""
    own, other = np.fft.fftn(image), np.fft.fftn(partner)
    result = np.zeros_like(own)
    for place in np.ndindex(*image.shape):
        signed = [k if k <= n // 2 else k - n for k, n in zip(place, image.shape, strict=True)]
        low = all(abs(k) <= share * n + 1e-6 for k, n in zip(signed, image.shape, strict=True))
        weight = mix if low else 0.0
        if not any(place):
            result[place] = (1 - weight) * own[place] + weight * other[place]
        else:
            amplitude = (1 - weight) * abs(own[place]) + weight * abs(other[place])
            result[place] = amplitude * np.exp(1j * np.angle(own[place]))
    assert abs(np.fft.ifftn(result).imag).max() < 1e-9
    return np.fft.ifftn(result).real


@pytest.mark.parametrize("size", [(8, 10), (7, 9), (4, 8, 6), (1, 8, 5)])
@pytest.mark.parametrize("share", [0.0, 0.13, 0.25, 0.5])
def test_against_a_loop(size, share):
    rng = np.random.default_rng(len(size))
    image, partner = rng.normal(size=(2, 1, *size)), rng.normal(1, 2, size=(2, 1, *size))
    mixed = mix_amplitude(torch.from_numpy(image), torch.from_numpy(partner), 0.8, share)
    for i in range(2):
        expected = reference(image[i, 0], partner[i, 0], 0.8, share)
        np.testing.assert_allclose(mixed[i, 0].numpy(), expected, atol=1e-10)


def test_mask_by_hand():
    # 8 rows: frequencies 0 1 2 3 -4 -3 -2 -1; 10 columns: 0..5. A quarter of 8 is 2, of 10 is 2.
    rows = [True, True, True, False, False, False, True, True]
    columns = [True, True, True, False, False, False]
    assert low_frequencies((8, 10), 0.25).tolist() == [[r and c for c in columns] for r in rows]


def test_an_axis_too_short_keeps_its_mean_only():
    mask = low_frequencies((4, 40), 0.05)
    assert mask.sum(0).tolist() == [1, 1, 1] + [0] * 18
    assert mask[0, :3].all()


def test_a_share_of_nothing_and_an_image_with_itself_change_nothing():
    image = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    partner = torch.randn_like(image)
    torch.testing.assert_close(mix_amplitude(image, partner, 0.0, 0.3), image)
    torch.testing.assert_close(mix_amplitude(image, image, 0.8, 0.3), image)


def test_one_mix_for_each_image():
    image, partner = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    mixed = mix_amplitude(image, partner, torch.tensor([0.0, 0.8]), 0.2)
    torch.testing.assert_close(mixed[0], image[0])
    torch.testing.assert_close(mixed[1:], mix_amplitude(image[1:], partner[1:], 0.8, 0.2))


def test_a_mean_of_the_other_sign_is_taken_over():
    image, partner = torch.full((1, 1, 4, 4), -1.0), torch.full((1, 1, 4, 4), 3.0)
    torch.testing.assert_close(mix_amplitude(image, partner, 0.5, 0.0), torch.full((1, 1, 4, 4), 1.0))


def test_half_precision_is_mixed_in_single():
    image, partner = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    mixed = mix_amplitude(image.half(), partner.half(), 0.8, 0.2)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, mix_amplitude(image, partner, 0.8, 0.2), atol=1e-2, rtol=0)


def test_a_constant_image_stays_finite():
    mixed = mix_amplitude(torch.zeros(1, 1, 8, 8), torch.randn(1, 1, 8, 8))
    assert mixed.isfinite().all()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"partner is \(1, 1, 4, 5\), the image's shape \(1, 1, 4, 4\) is needed"):
        mix_amplitude(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
