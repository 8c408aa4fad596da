"""Settings that all registration tests share."""

from __future__ import annotations

import pytest

from nnunet_ext.registration.settings import RegistrationSettings


@pytest.fixture(scope="session")
def quick() -> RegistrationSettings:
    """Small enough for a second a pair."""
    return RegistrationSettings(
        transform="affine",
        search_size=40,
        max_rotation=30,
        scales=(0.8, 1.0, 1.25),
        refine_size=24,
        affine_iterations=25,
        deformable_iterations=25,
        candidates=3,
    )
