from __future__ import annotations

import re

import pytest

from nnunet_ext.errors import InputError
from translation.method import TranslationMethod
from translation.registry import METHODS, build_settings, entry


@pytest.mark.parametrize("method", METHODS)
def test_every_method_loads_and_has_a_cpu_size(method):
    assert issubclass(entry(method).load(), TranslationMethod)
    paper, small = build_settings(method), build_settings(method, "cpu")
    if hasattr(paper, "width"):
        assert small.width < paper.width
        assert max(small.crop) <= 128


def test_papers_values():
    tanq, cyclegan, msfnet = build_settings("tanq"), build_settings("cyclegan"), build_settings("msfnet")
    assert (tanq.epochs, tanq.batch_size, tanq.patches, tanq.projector_width) == (400, 4, 256, 256)
    assert tanq.attention_layers == (3, 4)
    # A cochlea has about 6 pixels at the coarsest level; the tables were measured with 16.
    assert (tanq.min_pixels, build_settings("tanq", "cpu").min_pixels) == (4, 16)
    assert (cyclegan.epochs, cyclegan.batch_size, cyclegan.learning_rate, cyclegan.lambda_cycle) == (200, 4, 2e-4, 10)
    assert (msfnet.epochs, msfnet.batch_size, msfnet.slices) == (1000, 1, 3)
    assert (msfnet.lambda_reconstruction, msfnet.lambda_perceptual, msfnet.lambda_cycle) == (10, 0.01, 10)
    assert build_settings("cut").attention_layers == ()


def test_overrides_are_json_or_text():
    settings = build_settings("tanq", "cpu", ('restyled=["VS"]', "spacing=[1.5, 1.5, null]", "adversarial=hinge"))
    assert settings.restyled == ("VS",)
    assert settings.spacing == (1.5, 1.5, None)
    assert settings.adversarial == "hinge"


@pytest.mark.parametrize(
    ("method", "preset", "override", "message"),
    [
        ("pix2pix", "paper", "", "one of histogram, cyclegan"),
        ("cut", "gpu", "", "one of paper, cpu"),
        ("cut", "paper", "widht=3", "widht is not a setting, valid are"),
        ("cut", "paper", "width=wide", "width is 'wide'"),
        ("cut", "paper", "width", "KEY=VALUE is needed"),
        ("cut", "paper", "slices=2", "slices must be odd"),
        ("cut", "paper", "crop=[16,16]", "at least 64 pixels"),
        ("cut", "paper", "percentiles=[99,1]", "increasing"),
        ("cut", "paper", "attention_layers=[7]", "among 0 to 4"),
        ("msfnet", "paper", "decoder_blocks=9", "fewer than blocks"),
        ("msfnet", "paper", "crop=[130,130]", "multiple of 4"),
        ("histogram", "paper", "spacing=[0,1,1]", "positive"),
    ],
)
def test_bad_input_is_one_clear_line(method, preset, override, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build_settings(method, preset, (override,) if override else ())
    assert "\n" not in str(caught.value)
