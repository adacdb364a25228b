"""Values of a recipe that contradict each other or would do nothing are refused by name."""

from pathlib import Path

import pytest
from torch import nn

from qmnv3.errors import RecipeError
from qmnv3.training.config import TrainConfig
from qmnv3.training.optimizer import make_optimizer
from recipes import load_recipe


def load(tmp_path: Path, text: str) -> TrainConfig:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(str(path), TrainConfig)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["alpha", "eps"])
def test_what_only_rmsprop_takes_is_refused_elsewhere(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} 0.5: is rmsprop's, {kind} has none; leave it out"):
        load(tmp_path, f"optimizer: {{kind: {kind}, {name}: 0.5}}")
    base = tmp_path / "base.yaml"
    base.write_text(f"optimizer: {{kind: rmsprop, {name}: 0.5}}")
    assert load(tmp_path, f"base: {base}\noptimizer: {{kind: {kind}, {name}: null}}").optimizer.kind == kind


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_papers_recipe_may_be_based_on_with_another_optimizer(tmp_path: Path, kind: str) -> None:
    assert load(tmp_path, f"base: v3_paper\noptimizer: {{kind: {kind}}}").optimizer.kind == kind


def test_the_papers_rmsprop_has_tensorflows_values() -> None:
    config = load_recipe("v3_paper", TrainConfig).optimizer
    optimizer = make_optimizer(nn.Linear(2, 2), config, effective_batch=128)
    assert (optimizer.defaults["alpha"], optimizer.defaults["eps"]) == (0.9, 0.001)
    changed = config.model_copy(update={"alpha": 0.5, "eps": 0.25})
    defaults = make_optimizer(nn.Linear(2, 2), changed, effective_batch=128).defaults
    assert (defaults["alpha"], defaults["eps"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{min_aspect: 2, max_aspect: 0.5}", "min_aspect 2: is above max_aspect 0.5"),
        ("{min_aspect: 2}", "min_aspect 2: is above max_aspect 1.33333"),
        ("{max_aspect: .inf}", "augmentation.max_aspect: Input should be a finite number"),
    ],
)
def test_crops_that_cannot_be_drawn_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        load(tmp_path, f"augmentation: {text}")
