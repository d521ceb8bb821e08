"""LPIPS against its published formula, and reading of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lpips_weights import vgg_state
from safetensors.torch import save_file

from specularip import lpips
from specularip.errors import UserError
from specularip.lpips import Lpips, find_lpips

SEED = 0  # the fixture `seed` sets it
pytestmark = pytest.mark.usefixtures("seed", "no_installed_lpips")


def test_lpips_matches_its_published_formula(
    generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = vgg_state(generator)
    save_file({k: v for k, v in state.items() if k.startswith("features")}, tmp_path / "vgg16.safetensors")
    torch.save({k: v for k, v in state.items() if k.startswith("lin")}, tmp_path / "vgg.pth")
    monkeypatch.setenv(lpips.LPIPS_VARIABLE, str(tmp_path))
    network = find_lpips()
    assert isinstance(network, Lpips) and network.name == "lpips-vgg"

    layers: list[torch.nn.Module] = []
    cuts = []
    for k, group in enumerate(lpips.VGG_CONVOLUTIONS):
        layers += [torch.nn.MaxPool2d(2)] * (k > 0)
        for n in group:
            weight = state[f"features.{n}.weight"]
            assert len(layers) == n
            conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": state[f"features.{n}.bias"]})
            layers += [conv, torch.nn.ReLU()]
        cuts.append(len(layers))
    vgg = torch.nn.Sequential(*layers)
    a, b = torch.rand(2, 2, 3, 32, 32, generator=generator)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected = 0.0
    with torch.no_grad():
        for k, cut in enumerate(cuts):
            fa, fb = (vgg[:cut]((2 * x - 1 - shift[:, None, None]) / scale[:, None, None]) for x in (a, b))
            fa, fb = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (fa, fb))
            expected += float((state[f"lin{k}.model.1.weight"] * (fa - fb) ** 2).sum(1).mean())
        alpha = torch.rand(2, 1, 32, 32, generator=generator)
        found = float(network.distance(network.features(torch.cat([a, alpha], 1)), network.features(b)))
    assert found == pytest.approx(expected, rel=1e-3), SEED


def test_absent_weights_are_none_and_the_message_names_the_remedy() -> None:
    assert find_lpips() is None
    assert "models fetch" in lpips.NO_LPIPS and lpips.LPIPS_VARIABLE in lpips.NO_LPIPS
    assert "\n" not in lpips.NO_LPIPS


def test_broken_weights_raise_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lpips.LPIPS_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"features\.0\.weight"):
        find_lpips()
    monkeypatch.setenv(lpips.LPIPS_VARIABLE, str(tmp_path))
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "vgg16.safetensors")
    with pytest.raises(UserError, match="not"):
        find_lpips()
    (tmp_path / "vgg16.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"vgg16\.safetensors"):
        find_lpips()
    (tmp_path / "vgg16.safetensors").unlink()
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "vgg16.pth")  # a pickled module, not tensors
    with pytest.raises(UserError, match="plain state dict"):
        find_lpips()
