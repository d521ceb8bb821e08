"""The training state: parameters, optimizer, random generator; all that a bit-exact resume needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from specularip.gaussians import Gaussians
from specularip.training.gradients import ScreenGradients
from specularip.training.optimizer import adam_schema, make_adam, packed_adam, restore_moments
from specularip.training.schema import Schema, TensorOf, generator_state, tensors_like

Shared = TypeVar("Shared", bound=nn.Module)


@dataclass
class TrainState(Generic[Shared]):
    """N Gaussians and the parameters they share, under one Adam. All tensors are on one device.

    params: what is optimised, a row for each Gaussian; names are those of `Gaussians` where it is the same
    quantity. ties: what follows its Gaussian and is not optimised. shared: parameters of no single Gaussian,
    such as the specular head. generator: the only source of random numbers, on the CPU. skipped: consecutive
    steps left out because of non-finite numbers, a scalar int64 (see `step.take_step`).
    """

    params: dict[str, Tensor]
    ties: dict[str, Tensor]
    shared: Shared
    optimizer: torch.optim.Adam
    generator: torch.Generator
    screen_gradients: ScreenGradients
    skipped: Tensor

    @staticmethod
    def create(
        params: Mapping[str, Tensor],
        ties: Mapping[str, Tensor],
        shared: Shared,
        rates: Mapping[str, float],
        generator: torch.Generator,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
    ) -> TrainState[Shared]:
        """A state before the first step, on the parameters' device. rates, betas, eps: see `make_adam`."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        optimizer = make_adam(leaves, shared.parameters(), rates, betas, eps)
        count, device = len(leaves["means"]), leaves["means"].device
        skipped = torch.tensor(0, device=device)
        gradients = ScreenGradients.zeros(count, device)
        return TrainState(leaves, dict(ties), shared, optimizer, generator, gradients, skipped)

    def __len__(self) -> int:
        return len(self.params["means"])

    @property
    def device(self) -> torch.device:
        return self.params["means"].device

    @property
    def fields(self) -> dict[str, Tensor]:
        """Parameters and ties together, by name."""
        return {**self.params, **self.ties}

    @property
    def gaussians(self) -> Gaussians:
        """The same tensors as `Gaussians`; only for a state that has all of its fields."""
        tensors = self.fields
        return Gaussians(**{field.name: tensors[field.name] for field in fields(Gaussians)})

    def pack(self) -> dict[str, Any]:
        """Everything, as nested dicts of tensors. They are not copies: the next step changes them."""
        return {
            "params": self.params,
            "ties": self.ties,
            "shared": self.shared.state_dict(),
            "adam": packed_adam(self.optimizer),
            "generator": self.generator.get_state(),
            "screen_gradients": vars(self.screen_gradients),
            "skipped": self.skipped,
        }

    @staticmethod
    def unpack(
        packed: Mapping[str, Any], shared: Shared, device: torch.device | str = "cpu"
    ) -> TrainState[Shared]:
        """The inverse of `pack`, on `device`. shared: a module of the packed one's structure; its parameters
        are overwritten. The state is one that `schema` describes."""

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        shared.load_state_dict(packed["shared"])
        adam = packed["adam"]
        generator = torch.Generator()
        generator.set_state(packed["generator"])
        state = TrainState.create(
            moved(packed["params"]),
            moved(packed["ties"]),
            shared.to(device),
            adam["rates"],
            generator,
            tuple(adam["betas"]),
            adam["eps"],
        )
        restore_moments(state.optimizer, adam)
        state.screen_gradients = ScreenGradients(**moved(packed["screen_gradients"]))
        state.skipped = packed["skipped"].to(device)
        return state

    @staticmethod
    def schema(params: Mapping[str, TensorOf], ties: Mapping[str, TensorOf], shared: nn.Module) -> Schema:
        """Of what `pack` returns, for these parameters and ties, whose first size is "N"."""
        rows = TensorOf(("N",), low=0)
        return {
            "params": params,
            "ties": ties,
            "shared": tensors_like(shared.state_dict()),
            "adam": adam_schema(params, shared.parameters()),
            "generator": generator_state,
            "screen_gradients": {"grad_sum": rows, "views": rows},
            "skipped": TensorOf((), torch.int64, low=0),
        }
