"""The integers nearest to real targets, where "near" is a quadratic form and not the distance of each.

One input after the other is rounded while those to come absorb the error (Frantar et al. 2022, GPTQ, after
Hassibi and Stork 1993), then single integers are moved as long as that helps.
"""

import torch

_COLUMNS = 64


def round_adaptively(target: torch.Tensor, form: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    """Integers q in [qmin, qmax] that make (q - target) @ form @ (q - target)^T small, row by row.

    target: [G, R, I] in steps of the grid; form: [G, I, I], positive definite. No row is worse than its
    nearest rounding, and none gets better by moving a single integer by one.
    """
    nearest = target.round().clamp(qmin, qmax)
    rounded = _successive(target, form, qmin, qmax)
    better = _cost(rounded, target, form) < _cost(nearest, target, form)
    return _descend(torch.where(better[..., None], rounded, nearest), target, form, qmin, qmax)


def _cost(integers: torch.Tensor, target: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    error = integers - target
    return ((error @ form) * error).sum(2)


def _successive(target: torch.Tensor, form: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    """Round input after input, the strongest first; those not yet rounded take over the error."""
    order = form.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True)
    # By Cholesky throughout: batched LU fails in some builds of MKL.
    lower = torch.linalg.cholesky(form[:, order][:, :, order])
    factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    left, rounded = target[:, :, order].clone(), torch.empty_like(target)
    for first in range(0, target.shape[2], _COLUMNS):  # later columns are updated once a stretch
        last = min(first + _COLUMNS, target.shape[2])
        errors = torch.empty_like(left[:, :, first:last])
        for column in range(first, last):
            rounded[:, :, column] = left[:, :, column].round().clamp(qmin, qmax)
            error = (left[:, :, column] - rounded[:, :, column]) / factor[:, column, column, None]
            left[:, :, column:last] -= error[:, :, None] * factor[:, None, column, column:last]
            errors[:, :, column - first] = error
        left[:, :, last:] -= errors @ factor[:, first:last, last:]
    return rounded[:, :, order.argsort()]


def _descend(
    integers: torch.Tensor, target: torch.Tensor, form: torch.Tensor, qmin: int, qmax: int
) -> torch.Tensor:
    """Move the one integer of each row that gains most by one step, until none gains."""
    slope = (integers - target) @ form
    own = form.diagonal(dim1=1, dim2=2)[:, None, :]
    smallest = 1e-9 * own.mean()  # below it, gains are rounding errors of the slope and could cycle
    while True:
        step = -slope.sign()
        moved = integers + step
        gain = torch.where((moved >= qmin) & (moved <= qmax), 2.0 * slope.abs() - own, 0.0)
        most, column = gain.max(2, keepdim=True)
        chosen = torch.where(most > smallest, step.gather(2, column), 0.0)
        if not chosen.any():
            return integers
        integers = integers.scatter_add(2, column, chosen)
        slope = slope + chosen * form.gather(1, column.expand(-1, -1, form.shape[2]))
