"""Every shipped recipe is valid, and says what the paper says where it claims to."""

from pathlib import Path

import pytest
from torch import nn

from calibration.config import PtqConfig
from device_eval.paper.table5 import TABLE5
from device_eval.paper.table9 import TABLE9
from qmnv3.cli.ablate_config import AblationConfig, cells
from qmnv3.errors import RecipeError
from qmnv3.models.network import build_model
from qmnv3.qat.config import QatConfig
from qmnv3.training.config import TrainConfig
from recipes import list_recipes, load_recipe

KINDS = {"ptq": PtqConfig, "qat": QatConfig}
KINDS |= dict.fromkeys(("placement", "components", "multiplier"), AblationConfig)


@pytest.mark.parametrize("name", list_recipes())
def test_a_shipped_recipe_is_valid(name: str) -> None:
    kind = next((kind for part, kind in KINDS.items() if part in name.split("_")), TrainConfig)
    assert load_recipe(name, kind)


def test_the_papers_recipe_has_the_papers_numbers() -> None:
    """Section 6.1.1, learning rate decay read as times 0.99."""
    paper = load_recipe("v3_paper", TrainConfig)
    optimizer, schedule = paper.optimizer, paper.schedule
    assert (optimizer.kind, optimizer.momentum, optimizer.rate) == ("rmsprop", 0.9, 0.1)
    assert (optimizer.reference_batch, optimizer.weight_decay) == (4096, 1e-5)
    assert (schedule.kind, schedule.decay, schedule.every_epochs) == ("exponential", 0.99, 3)
    assert (paper.ema.enabled, paper.ema.decay) == (True, 0.9999)


def test_an_override_reaches_into_a_section() -> None:
    recipe = load_recipe("v3s_qat", QatConfig, **{"training.optimizer.rate": 0.5, "calibration.level": None})
    assert recipe.training.optimizer.rate == 0.5
    assert recipe.training.optimizer.reference_batch == 32 and recipe.calibration.level == 3


def test_a_recipe_says_what_differs_from_its_base(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("base: v3s_qat\ntraining: {epochs: 7, optimizer: {rate: 0.5}}\n")
    found, base = load_recipe(str(own), QatConfig), load_recipe("v3l_qat", QatConfig)
    optimizer = base.training.optimizer.model_copy(update={"rate": 0.5})
    training = base.training.model_copy(update={"epochs": 7, "optimizer": optimizer})
    assert found == base.model_copy(update={"training": training})
    assert load_recipe("v3s_qat", QatConfig) == load_recipe("v2_qat", QatConfig) == base
    for text, error in (
        ("base: v3m_qat", "v3m_qat: no such recipe; did you mean 'v"),
        (f"base: {own}", r"own.yaml: base: \S+own.yaml is based on this recipe"),
        (
            "base: v3l_qat\ntraining: {epoch: 3}",
            r"own.yaml: unknown key 'training.epoch'; did you mean 'epochs'",
        ),
    ):
        own.write_text(text)
        with pytest.raises(RecipeError, match=error):
            load_recipe(str(own), QatConfig)


def test_quantization_aware_training_is_not_compiled() -> None:
    with pytest.raises(RecipeError, match=r"qat.yaml: .*training\.compile is for float training"):
        load_recipe("v3s_qat", QatConfig, **{"training.compile": True})


def test_features_of_a_parent_that_does_not_teach_are_refused() -> None:
    features = {"distillation.features": ("add",), "distillation.weight": 0.0}
    with pytest.raises(RecipeError, match=r"distillation\.features .* need a distillation\.weight above 0"):
        load_recipe("v3s_qat", QatConfig, **features)
    assert load_recipe("v3s_qat", QatConfig, **features | {"distillation.weight": 0.1})


def test_the_multipliers_and_resolutions_are_table_9s() -> None:
    found = cells(load_recipe("multiplier_resolution", AblationConfig))
    assert {(c.model, c.width, c.resolution) for c in found} == {
        (row.model, row.width, row.resolution) for row in TABLE9
    }
    assert len(found) == 20
    # Figure 7: width 1.0 at 224 pixels is where both curves of a network cross.
    along = [cell.resolution for cell in found if "V3-Small, resolutions" in cell.curves]
    assert sorted(along) == [96, 128, 160, 192, 224, 256]
    across = [cell.width for cell in found if "V3-Small, widths" in cell.curves]
    assert sorted(across) == [0.35, 0.5, 0.75, 1.0, 1.25]


@pytest.mark.parametrize("place", ["16", "80", "112"])
def test_swish_is_where_h_swish_is(place: str) -> None:
    variants = load_recipe("placement", AblationConfig).variants
    sites = {}
    for kind, module in (("hswish", nn.Hardswish), ("swish", nn.SiLU)):
        variant = next(v for v in variants if v.name.removeprefix("V3-") == f"{kind}@{place}")
        network = build_model(variant.model, **variant.options)
        sites[kind] = [name for name, found in network.named_modules() if isinstance(found, module)]
    assert sites["swish"] == sites["hswish"] != []


def test_the_placements_hold_table_5s() -> None:
    found = cells(load_recipe("placement", AblationConfig))
    networks = {(c.options.get("nonlinearity", "paper"), c.width) for c in found if c.model == "large"}
    assert networks >= {(row.nonlinearity, row.width) for row in TABLE5}
