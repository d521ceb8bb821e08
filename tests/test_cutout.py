"""`specularip masks`: people cut out of images that have neither masks nor alpha."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from captures import HEIGHT, WIDTH, write
from onnx import TensorProto, helper
from PIL import Image

from specularip.captures.cutout import load_rembg
from specularip.captures.load import load_posed_images
from specularip.cli import main


def opaque(folder: Path) -> Path:
    """A capture of five images without alpha, whose left half is bright."""
    write(folder)
    for path in (folder / "train").glob("*.png"):
        pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        pixels[:, : WIDTH // 2] = 220
        Image.fromarray(pixels).save(path)
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """A module like rembg, whose network takes what is bright for a person."""

    def predict(image: Image.Image) -> list[Image.Image]:
        calls.append("predict")
        return [image.convert("L").point(lambda value: 255 if value > 128 else 0)]

    session = types.SimpleNamespace(predict=predict)
    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(new_session=lambda name: session))


def test_masks_are_written_once_and_then_used(tmp_path, monkeypatch, capsys):
    folder, calls = opaque(tmp_path / "capture"), []
    stand_in(monkeypatch, calls)
    assert "`specularip masks`" in " ".join(load_posed_images(folder).notes)
    main(["masks", str(folder)])
    assert len(calls) == 5 and sorted(path.name for path in (folder / "masks").rglob("*.png"))[0] == "r_0.png"
    posed = load_posed_images(folder)
    for view in posed:
        assert view.alpha[:, : WIDTH // 2].min() == 1 and view.alpha[:, WIDTH // 2 :].max() == 0
    next((folder / "masks").rglob("*.png")).unlink()
    main(["masks", str(folder)])
    assert len(calls) == 6, "only the missing one is made again"
    main(["masks", str(folder)])
    assert "all images" in capsys.readouterr().out


def test_images_without_a_person_are_named(tmp_path, monkeypatch, capsys):
    folder = opaque(tmp_path / "capture")
    stand_in(monkeypatch, [])
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10, np.uint8)).save(folder / "train" / "r_3.png")
    main(["masks", str(folder)])
    assert "r_3.png" in capsys.readouterr().out


def test_without_rembg_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(SystemExit) as raised:
        main(["masks", str(opaque(tmp_path / "capture"))])
    assert raised.value.code == 2 and "specularip[background]" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("rembg") is None, reason="the extra `background` is not installed"
)
def test_rembg_reads_a_network_of_the_same_layout(tmp_path, monkeypatch):
    """One convolution with the inputs and outputs of U²-Net, in the place of its weights."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 3, 1, 1], [1.0, 1.0, 1.0])
    node = helper.make_node("Conv", ["input.1", "w"], ["1959"])
    shapes = (("input.1", 3), ("1959", 1))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 320, 320]) for name, c in shapes]
    graph = helper.make_graph([node], "net", [ends[0]], [ends[1]], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    onnx.save(model, tmp_path / "u2net_human_seg.onnx")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    image = Image.fromarray(
        np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 3, 2).repeat(48, 0)
    )
    mask = load_rembg()(image)
    assert mask.shape == (48, 64) and mask[:, 0].max() < 20 and mask[:, -1].min() > 235
