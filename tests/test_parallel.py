"""A step's views shared by several ranks: the same gradients, and the same screen-space gradients."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # spawned processes import tiny_prior too
from tiny_prior import pixel_prior

from specularip.body import anny_body
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.settings import GuidanceConfig
from specularip.errors import UserError
from specularip.kernels.async_transfer import StepMetrics
from specularip.stages.guide import Guide
from specularip.stages.initial_state import AvatarState, initial_state
from specularip.stages.perceptual import UnetFeatures
from specularip.stages.scr import Targets, fit_targets
from specularip.stages.seid import seid
from specularip.stages.settings import Config, ScrConfig, SeidConfig
from specularip.training.parallel import SINGLE_RANK, Ranks, init_ranks

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
VIEWS = 4


def gradients(ranks: Ranks, seed: int) -> dict[str, torch.Tensor]:
    """All gradients of one step of each stage in this process."""
    prior = pixel_prior(seed)
    body = anny_body()
    config = Config(
        guidance=GuidanceConfig(kind="anpg", pixel_clip=1e9),
        seid=SeidConfig(steps=1, points=300, render_size=32, views_per_step=VIEWS, lights=8),
        scr=ScrConfig(fit_steps=1, views_per_step=VIEWS),
    )
    face = prior.encode_face(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    guide = Guide(prior, PromptBook(prior), "a man", face, body, config)
    state = initial_state(body, config.seid, seed)
    found: dict[str, torch.Tensor] = {}

    def keep(stage: str) -> Callable[[int, dict[str, float]], None]:
        def after_step(done: int, log: StepMetrics) -> None:
            found.update(
                {f"{stage}.{name}": copied(x.grad) for name, x in named(state) if x.grad is not None}
            )

        return after_step

    seid(state, guide, 0, keep("seid"), ranks)
    screen = state.screen_gradients
    found["grad_sum"], found["views"] = copied(screen.grad_sum), copied(screen.views)
    cameras = [
        torch.eye(4).repeat(6, 1, 1),
        torch.tensor([[32.0, 0, 16], [0, 32, 16], [0, 0, 1]]).repeat(6, 1, 1),
    ]
    cameras[0][:, 1, 1:3], cameras[0][:, 2, 1:3] = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0])
    cameras[0][:, 2, 3] = torch.linspace(2, 3, 6)
    images = torch.rand(6, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    # Not from SEID's result: Adam takes a full step on a gradient that is nothing but rounding.
    state = initial_state(body, config.seid, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in named(state):
            tensor += 0.03 * torch.randn(tensor.shape, generator=generator)
    fit_targets(state, guide, Targets(*cameras, images, 32, 32), UnetFeatures(prior), 0, keep("fit"), ranks)
    found["means"] = copied(state.params["means"])
    return found


def copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def named(state: AvatarState) -> list[tuple[str, torch.Tensor]]:
    return [*state.params.items(), *state.shared.named_parameters()]


def process(index: int, rank: int, port: int, folder: str, seed: int) -> None:
    os.environ.update(environment(rank, port))
    ranks, device = init_ranks("cpu")
    assert (ranks.rank, ranks.world_size, device.type) == (rank, 2, "cpu")
    assert ranks.any(rank == 1, device) and not ranks.any(False, device)
    torch.save(gradients(ranks, seed), f"{folder}/{rank}.pt")
    ranks.barrier()
    torch.distributed.destroy_process_group()


def environment(rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for each of two processes."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**address, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}


def test_two_ranks_take_the_step_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in environment(0, port).items():
        monkeypatch.setenv(name, value)
    other = torch.multiprocessing.spawn(process, (1, port, str(tmp_path), SEED), nprocs=1, join=False)
    process(0, 0, port, str(tmp_path), SEED)
    other.join()
    wanted = gradients(SINGLE_RANK, SEED)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == wanted.keys() and {"seid.means", "fit.axes", "grad_sum"} <= wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the ranks (seed {SEED})"
        scale = float(tensor.norm()) or 1.0
        error = float((first[name] - tensor).norm()) / scale
        assert error < 1e-3, (name, error, SEED)
    assert float(wanted["seid.means"].norm()) > 0 and float(wanted["fit.means"].norm()) > 0


def test_local_slices_cover_all_views_once() -> None:
    rows = [list(range(8))[Ranks(rank, 4).local_slice(8)] for rank in range(4)]
    assert [view for some in rows for view in some] == list(range(8))
    with pytest.raises(UserError, match="6 views per step do not divide between 4 processes"):
        Ranks(0, 4).local_slice(6)


def test_a_single_rank_communicates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks, device = init_ranks("cpu")
    assert ranks == SINGLE_RANK and ranks.is_main and device.type == "cpu"
    tensor = torch.ones(3)
    ranks.average([tensor])
    ranks.barrier()
    assert torch.equal(ranks.broadcast(tensor), torch.ones(3)) and ranks.any(True, device)
