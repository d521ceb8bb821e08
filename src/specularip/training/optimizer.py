"""Adam over Gaussians: one named group per parameter, and surgery on its state when rows change.

Parameters are a dict of leaf tensors with a row for each Gaussian. These operations are independent
of the policy: `densify` and `relocate` decide which Gaussians are cloned, split, removed or moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from specularip.training.schema import Maybe, Number, Schema, TensorOf

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter."""
SHARED = "shared"
"""Name of the group of parameters that belong to no single Gaussian, such as the specular head's."""


def make_adam(
    params: Mapping[str, Tensor],
    shared: Iterable[Tensor],
    rates: Mapping[str, float],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> torch.optim.Adam:
    """Adam with a group for each parameter, named after it, and one named SHARED if there are any shared.

    rates: the learning rate of each group. A group keeps it as "initial_lr"; see `set_rates`.
    """
    members = {name: [tensor] for name, tensor in params.items()}
    if rest := list(shared):
        members[SHARED] = rest
    groups: list[dict[str, Any]] = [
        {"params": tensors, "name": name, "lr": rates[name], "initial_lr": rates[name]}
        for name, tensors in members.items()
    ]
    fused = all(tensor.is_cuda for tensor in params.values())
    return torch.optim.Adam(groups, betas=betas, eps=eps, fused=fused)


def packed_adam(optimizer: torch.optim.Adam) -> dict[str, Any]:
    """All that differs between runs, as nested dicts: initial rates and moments by the groups' names. None
    stands for the moments of a parameter before its first step. Not `state_dict`, which differs between
    versions of torch."""
    groups = {group["name"]: group for group in optimizer.param_groups}

    def moments(tensor: Tensor) -> dict[str, Tensor] | None:
        state = optimizer.state.get(tensor)
        return {name: state[name] for name in MOMENTS} if state else None

    return {
        "betas": tuple(optimizer.defaults["betas"]),
        "eps": optimizer.defaults["eps"],
        "rates": {name: group["initial_lr"] for name, group in groups.items()},
        "moments": {name: [moments(tensor) for tensor in group["params"]] for name, group in groups.items()},
    }


def restore_moments(optimizer: torch.optim.Adam, packed: Mapping[str, Any]) -> None:
    """The moments of `packed_adam`, for an Adam made of the same parameters."""
    for group in optimizer.param_groups:
        for tensor, moments in zip(group["params"], packed["moments"][group["name"]], strict=True):
            if moments is not None:
                state = {name: moments[name].to(tensor.device, copy=True) for name in MOMENTS}
                if not group["fused"]:
                    state["step"] = state["step"].cpu()
                optimizer.state[tensor] = state


def adam_schema(params: Mapping[str, TensorOf], shared: Iterable[Tensor]) -> Schema:
    """Of what `packed_adam` returns for an Adam over `params` and `shared`."""

    def moments(spec: TensorOf) -> Maybe:
        return Maybe({"step": TensorOf((), low=0), "exp_avg": spec, "exp_avg_sq": replace(spec, low=0)})

    members = {name: [moments(spec)] for name, spec in params.items()}
    if rest := [moments(TensorOf(tuple(tensor.shape), tensor.dtype)) for tensor in shared]:
        members[SHARED] = rest
    return {
        "betas": (Number(0, 1), Number(0, 1)),
        "eps": Number(0, 1),
        "rates": dict.fromkeys(members, Number(0)),
        "moments": members,
    }


def set_initial_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """The learning rate of each group for the next stage; see `set_rates`."""
    for group in optimizer.param_groups:
        group["initial_lr"] = rates[group["name"]]


def set_rates(
    optimizer: torch.optim.Optimizer,
    factor: float,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Set each group's learning rate to its initial one times `factor`, or times its own of `factors`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factors.get(group["name"], factor)


@torch.no_grad()
def select_rows(
    params: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    parents: Tensor,
    fresh: Tensor,
    new: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Replace every parameter [N,...] by its rows `parents` [M], in `params` and in the optimizer.

    Removes, duplicates and reorders Gaussians, depending on the indices. new: values [M,...] that replace the
    selected rows of the parameters it names. Adam's moments follow their rows; where `fresh` [M] bool is True
    they start at zero. A parameter without a group is selected all the same. Raises ValueError if a group
    holds another tensor than `params` does.
    """
    groups = {group.get("name"): group for group in optimizer.param_groups}
    for name, old in params.items():
        group = groups.get(name)
        if group is not None and (len(group["params"]) != 1 or group["params"][0] is not old):
            raise ValueError(f"optimizer group {name!r} must hold the parameter {name!r} and nothing else")
        rows = new[name] if name in new else old[parents]
        params[name] = tensor = rows.detach().clone().requires_grad_(old.requires_grad)
        if group is None:
            continue
        group["params"] = [tensor]
        state = optimizer.state.pop(old, {})
        for key, value in _per_row(state, len(old)):
            state[key] = value[parents].clone()
            state[key][fresh] = 0
        if state:
            optimizer.state[tensor] = state


@torch.no_grad()
def zero_rows(params: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
    """Zero Adam's moments of the rows [M] of every parameter, after their values were replaced."""
    for tensor in params.values():
        for _, value in _per_row(optimizer.state.get(tensor, {}), len(tensor)):
            value[rows] = 0


def _per_row(state: Mapping[str, Any], count: int) -> list[tuple[str, Tensor]]:
    """The entries of a parameter's optimizer state that have a row for each Gaussian."""
    return [
        (key, value)
        for key, value in state.items()
        if isinstance(value, Tensor) and value.ndim and len(value) == count
    ]
