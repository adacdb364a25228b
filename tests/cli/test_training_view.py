"""What a training says where nobody watches a terminal."""

import pytest

from qmnv3.cli.training_view import TrainingView


def test_a_short_run_says_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingView(epochs=3) as view:
        for step in range(1, 7):
            loss = {"loss": 1.0, "accuracy": 0.5, "images_per_s": 10.0}
            view.step({"step": step, "epoch": (step - 1) // 2, **loss}, total=6)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        "epoch 1/3 step 2/6",
        "epoch 2/3 step 4/6",
        "epoch 3/3 step 6/6",
    ]
