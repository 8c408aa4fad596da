"""Swin-Unet differs from CS-Unet in its settings only."""

from __future__ import annotations

import pytest

TINY = {"embed_dim": 8, "depths": [1, 1], "decoder_depths": [1], "num_heads": [1, 2], "window_size": 4}


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_trains_as_swin_unet(train, change_settings, configuration):
    change_settings(configuration, SwinUNet=TINY, CSUNet={"embed_dim": 1000})
    trainer = train("nnUNetTrainerSwinUNet", configuration)
    assert trainer.current_epoch == 2
    names = dict(trainer.network.named_parameters())
    assert any("bias_table" in n or "position" in n for n in names)
    assert trainer.network.feature_channels[0] == 8
