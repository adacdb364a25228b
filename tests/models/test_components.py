"""The components of Figure 9 as options: their costs against the paper's words, and the way to a file."""

from pathlib import Path

import pytest
import torch

from device_eval.paper.statements import STATEMENTS
from qmnv3.errors import ModelError
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.config import ModelOptions
from qmnv3.models.count import count
from qmnv3.models.network import build_model
from qmnv3.models.weights import load_model
from qmnv3.preprocessing import Preprocessing

SPEC = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COMPONENTS: list[ModelOptions] = [
    {"stem_width": 32},
    {"last_stage": "original"},
    {"last_stage": "efficient_bn"},
    {"squeeze_excite": "input"},
    {"squeeze_excite": "none"},
]


def saved_madds(options: ModelOptions) -> float:
    """Millions of MAdds that V3-Large saves against itself with `options`."""
    with_it, without = (count(build_model("large", **chosen), 224) for chosen in ({}, options))
    return (without.madds - with_it.madds) / 1e6


def stated(thing: str) -> float:
    (change,) = [s.change for s in STATEMENTS if s.thing == thing and s.quantity == "MAdds"]
    return -change


def test_the_small_stem_saves_what_the_paper_says() -> None:
    assert round(saved_madds({"stem_width": 32})) == stated("stem of 16 filters, not 32") == 10


def test_the_efficient_last_stage_saves_what_figure_5_draws() -> None:
    """By hand: 3x3 on 960, 960 to 320, 320 to 1280 at 7x7 go, 960 to 1280 at 1x1 comes. The paper says 30."""
    by_hand = 49 * (9 * 960 + 960 * 320 + 320 * 1280) - 960 * 1280
    assert saved_madds({"last_stage": "original"}) == by_hand / 1e6
    assert 30 <= by_hand / 1e6 < 30 * 1.15
    assert stated("efficient last stage") == 30


def test_the_original_last_stage_is_figure_5() -> None:
    features = build_model("large", last_stage="original").features
    shapes = [tuple(p.shape) for p in features[16:].parameters() if p.ndim == 4]
    assert shapes == [(960, 160, 1, 1), (960, 1, 3, 3), (320, 960, 1, 1), (1280, 320, 1, 1)]


def test_a_norm_in_the_head_costs_no_multiplications() -> None:
    assert saved_madds({"last_stage": "efficient_bn"}) == 0.0
    plain, normed = (count(build_model("large", **o), 224).params for o in ({}, COMPONENTS[2]))
    assert normed - plain == 1280  # scale and shift come, the bias goes


def test_squeeze_and_excite_of_mnasnets_size() -> None:
    state = build_model("large", squeeze_excite="input").state_dict()
    squeezed = {key: value.shape[0] for key, value in state.items() if key.endswith("fc1.weight")}
    # Table 1: the inputs of the rows with a tick are 24, 40, 40, 80, 112, 112, 160, 160.
    assert list(squeezed.values()) == [6, 10, 10, 20, 28, 28, 40, 40]
    none = build_model("large", squeeze_excite="none").state_dict()
    assert not any("fc1" in key for key in none)


@pytest.mark.parametrize("options", COMPONENTS, ids=str)
@pytest.mark.parametrize("model", ["small", "large_minimalistic"])
def test_a_checkpoint_brings_its_components(tmp_path: Path, model: str, options: ModelOptions) -> None:
    built = build_model(model, width=0.35, num_classes=7, seed=3, **options)
    save_checkpoint(tmp_path / "w.safetensors", built, SPEC)
    loaded = load_model(model, tmp_path / "w.safetensors").model
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(built.eval()(x), loaded(x))
    fewer = load_model(model, tmp_path / "w.safetensors", new_classifier=3).model
    with torch.no_grad():
        assert fewer(x).shape == (2, 3)


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        ("v2", {"last_stage": "original"}, "last_stage='original' is for MobileNetV3"),
        ("v2", {"squeeze_excite": "none"}, "squeeze_excite='none' is for MobileNetV3"),
        ("large", {"last_stage": "old"}, "last_stage='old' is not one of efficient, efficient_bn, original"),
        ("large", {"squeeze_excite": "big"}, "is not one of expansion, input, none"),
        ("large", {"last_stage": "original", "activations": {"classifier": "relu"}}, "features.17"),
    ],
)
def test_what_cannot_be_built_is_named(model: str, options: ModelOptions, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        build_model(model, **options)
