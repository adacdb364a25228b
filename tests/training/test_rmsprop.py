"""RMSProp against the recurrences of TensorFlow's kernel, and what sets it apart from torch's."""

import numpy as np
import torch

from qmnv3.training.rmsprop import RMSpropTF


def test_it_follows_tensorflows_trajectory() -> None:
    """Recorded from TensorFlow 2.21, float32:

    with tf.Graph().as_default(), tf.compat.v1.Session() as s:
        p = tf.compat.v1.Variable([1.0, -2.0, 0.5]); loss = tf.reduce_sum(p**2 * [1.0, 0.1, 3.0])
        step = tf.compat.v1.train.RMSPropOptimizer(0.05, 0.9, 0.9, 1e-3).minimize(loss)
        s.run(tf.compat.v1.global_variables_initializer())
        for _ in range(5): s.run(step); print(s.run(p).tolist())
    """
    expected = [
        [0.9123278856277466, -1.9791145324707031, 0.388227641582489],
        [0.7590293288230896, -1.938737392425537, 0.2084517478942871],
        [0.560753583908081, -1.8803340196609497, 0.0035384446382522583],
        [0.3372872471809387, -1.8054417371749878, -0.18165495991706848],
        [0.10807989537715912, -1.7156683206558228, -0.3079676032066345],
    ]
    parameter = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    optimizer = RMSpropTF([parameter], 0.05, alpha=0.9, momentum=0.9, eps=1e-3)
    found = []
    for _ in range(5):
        optimizer.zero_grad()
        (parameter.square() * torch.tensor([1.0, 0.1, 3.0])).sum().backward()
        optimizer.step()
        found.append(parameter.detach().numpy().copy())
    np.testing.assert_allclose(np.stack(found), expected, rtol=1e-5)


def test_its_first_step_is_not_the_huge_one_of_torchs() -> None:
    """A gradient of 0.01: torch divides by sqrt(0.1) * 0.01, TensorFlow by about sqrt(0.9)."""
    steps = []
    for make in (RMSpropTF, torch.optim.RMSprop):
        parameter = torch.zeros(1, requires_grad=True)
        optimizer = make([parameter], 1.0, alpha=0.9, momentum=0.0, eps=1e-8)
        parameter.grad = torch.tensor([0.01])
        optimizer.step()
        steps.append(-parameter.item())
    np.testing.assert_allclose(steps, [0.01 / np.sqrt(0.9 + 1e-5), 1 / np.sqrt(0.1)], rtol=1e-4)


def test_weight_decay_is_added_to_the_gradient() -> None:
    """Gradient 0, decay 0.5, weight 2: as a gradient of 1; the square becomes 0.9 + 0.1 = 1."""
    parameter = torch.tensor([2.0], requires_grad=True)
    parameter.grad = torch.zeros(1)
    RMSpropTF([parameter], 0.1, alpha=0.9, momentum=0.0, eps=1e-9, weight_decay=0.5).step()
    np.testing.assert_allclose(parameter.item(), 1.9, rtol=1e-6)


def test_loaded_state_follows_the_parameter_to_its_device() -> None:
    """Saved on the CPU, loaded for a parameter elsewhere ("meta": this machine may have no GPU)."""
    here = torch.nn.Parameter(torch.ones(2))
    saved = RMSpropTF([here], 0.1)
    here.grad = torch.ones(2)
    saved.step()
    there = torch.nn.Parameter(torch.ones(2, device="meta"))
    loaded = RMSpropTF([there], 0.1)
    loaded.load_state_dict(saved.state_dict())
    assert {value.device.type for value in loaded.state[there].values()} == {"meta"}
