"""Writing of files: equal contents are equal bytes, and every reader takes them."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from qmnv3.files import write_safetensors


def test_equal_contents_make_equal_safetensors_files(tmp_path: Path) -> None:
    # safetensors itself writes metadata in another order each time.
    metadata = {f"key {index}": "größer" * index for index in range(20)}
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1, -2], dtype=torch.int8)}
    paths = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for path in paths:
        write_safetensors(path, save(tensors, metadata))
    assert len({path.read_bytes() for path in paths}) == 1
    with safe_open(paths[0], "pt") as file:
        assert file.metadata() == metadata
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
