"""Views of a step split between processes: the same gradient, and the same statistics for density control."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # processes that start fresh find tiny_prior too
from tiny_prior import pixel_prior

from specularip.body import anny_body
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.settings import GuidanceConfig
from specularip.errors import UserError
from specularip.kernels.async_transfer import StepMetrics
from specularip.stages.guide import Guide
from specularip.stages.perceptual import UnetFeatures
from specularip.stages.scr import Targets, fit
from specularip.stages.seid import seid
from specularip.stages.settings import Config, ScrConfig, SeidConfig
from specularip.training.parallel import ALONE, Team, join
from specularip.training.state import State, start

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed")
VIEWS = 4


def gradients(team: Team, seed: int) -> dict[str, torch.Tensor]:
    """What one step of each stage leaves behind in one process."""
    prior = pixel_prior(seed)
    body = anny_body()
    config = Config(
        guidance=GuidanceConfig(kind="anpg", pixel_clip=1e9),
        seid=SeidConfig(
            steps=1, points=300, render_size=32, views_per_step=VIEWS, specular_from=-0.2, lights=8
        ),
        scr=ScrConfig(fit_steps=1, views_per_step=VIEWS),
    )
    face = prior.encode_face(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    guide = Guide(prior, PromptBook(prior), "a man", face, body, config)
    state = start(body, 300, seed, lights=8)
    found: dict[str, torch.Tensor] = {}

    def keep(stage: str) -> Callable[[int, dict[str, float]], None]:
        def after_step(done: int, log: StepMetrics) -> None:
            found.update(
                {f"{stage}.{name}": copied(x.grad) for name, x in named(state) if x.grad is not None}
            )

        return after_step

    seid(state, guide, None, 0, keep("seid"), team)
    found["strain"], found["views"] = copied(state.stats.grad_sum), copied(state.stats.views)
    cameras = [
        torch.eye(4).repeat(6, 1, 1),
        torch.tensor([[32.0, 0, 16], [0, 32, 16], [0, 0, 1]]).repeat(6, 1, 1),
    ]
    cameras[0][:, 1, 1:3], cameras[0][:, 2, 1:3] = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0])
    cameras[0][:, 2, 3] = torch.linspace(2, 3, 6)
    images = torch.rand(6, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    # Not from where SEID's step leads: Adam makes a whole step of a gradient that is nothing but rounding.
    state = start(body, 300, seed, lights=8)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in named(state):
            tensor += 0.03 * torch.randn(tensor.shape, generator=generator)
    fit(state, guide, None, Targets(*cameras, images, 32, 32), UnetFeatures(prior), 0, keep("fit"), team)
    found["means"] = copied(state.gaussians.means)
    return found


def copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def named(state: State) -> list[tuple[str, torch.Tensor]]:
    return [*state.gaussians.parameters().items(), *state.head.named_parameters()]


def process(index: int, rank: int, port: int, folder: str, seed: int) -> None:
    os.environ.update(environment(rank, port))
    team, device = join("cpu")
    assert (team.rank, team.size, device.type) == (rank, 2, "cpu")
    assert team.any(rank == 1, device) and not team.any(False, device)
    torch.save(gradients(team, seed), f"{folder}/{rank}.pt")
    team.wait()
    torch.distributed.destroy_process_group()


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells each of two processes."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**address, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}


def test_two_processes_take_the_step_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in environment(0, port).items():
        monkeypatch.setenv(name, value)
    other = torch.multiprocessing.spawn(process, (1, port, str(tmp_path), SEED), nprocs=1, join=False)
    process(0, 0, port, str(tmp_path), SEED)
    other.join()
    wanted = gradients(ALONE, SEED)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == wanted.keys() and {"seid.means", "fit.axes", "strain"} <= wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes (seed {SEED})"
        scale = float(tensor.norm()) or 1.0
        error = float((first[name] - tensor).norm()) / scale
        assert error < 1e-3, (name, error, SEED)
    assert float(wanted["seid.means"].norm()) > 0 and float(wanted["fit.means"].norm()) > 0


def test_shares_cover_all_views_once() -> None:
    rows = [list(range(8))[Team(rank, 4).share(8)] for rank in range(4)]
    assert [view for some in rows for view in some] == list(range(8))
    with pytest.raises(UserError, match="6 views a step do not divide between 4 processes"):
        Team(0, 4).share(6)


def test_alone_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    team, device = join("cpu")
    assert team == ALONE and team.leads and device.type == "cpu"
    tensor = torch.ones(3)
    team.average([tensor])
    team.wait()
    assert torch.equal(team.follow(tensor), torch.ones(3)) and team.any(True, device)
