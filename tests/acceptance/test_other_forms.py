"""Networks without h-swish: steps up from plain calibration must cost nothing there."""

from pathlib import Path

import pytest
from acceptance.main_job import held_out_photos, nearness, qmnv3
from acceptance.other_forms import googles_minimalistic, in_relu_form

from device_eval.partitions import delegate_partitions
from qmnv3.models.weights import load_model

FORMS = {"minimalistic": "large_minimalistic", "relu": "small"}


@pytest.mark.parametrize("form", FORMS)
def test_level_3_is_no_worse_than_plain_calibration(form: str, data_pack: Path, tmp_path: Path) -> None:
    """Plain is level 1, ranges searched tensor by tensor: closer to float than min-max, so harder to beat."""
    weights, photos = tmp_path / "float.safetensors", data_pack / "imagenet/calib"
    if form == "minimalistic":
        googles_minimalistic(data_pack / "peers/google_v3_large_minimalistic_qat_uint8.tflite", weights)
    else:
        in_relu_form(data_pack / "weights/v3_small_imagenet.safetensors", weights)
    model = ("--model", FORMS[form], "--weights", weights)
    spec = load_model(FORMS[form], weights).preprocessing
    found = {}
    for level in (1, 3):
        out = tmp_path / str(level)
        qmnv3("ptq", *model, "--calib", photos, "--level", level, "--out", out / "run")
        qmnv3("export", "--int8", "--float32", "--checkpoint", out / "run", "--out", out)
        int8 = out / "model_int8.tflite"
        assert delegate_partitions(int8).count == 1
        # Every fourth of the photos not calibrated on.
        chosen = held_out_photos(photos)[::4]
        found[level] = nearness(out / "model_float32.tflite", int8, photos, chosen, spec)
        print(f"{form}, level {level}: KL {found[level].kl:.4f}, {found[level].agreement.estimate:.3f}")
    assert found[3].kl < found[1].kl
    assert found[3].agreement.estimate >= found[1].agreement.estimate
