"""Checkpoints: what is damaged is never used, and a run goes on from what is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import KINDS, outcome, same, sound, state_of, try_checkpoint, unpacked
from safetensors import safe_open
from safetensors.torch import save

from specularip import checkpoints
from specularip.checkpoints import CHECKSUM, HEADER, MAX_DEPTH, flatten_state, read_checkpoint, sealed
from specularip.errors import DamagedFile
from specularip.run_folder import RunFolder
from specularip.training.schema import (
    Many,
    Maybe,
    NotFinite,
    Number,
    TensorOf,
    Text,
    check_state,
    generator_state,
)
from specularip.training.session import differences


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints_are_passed_over(kind: str, tmp_path: Path, seed: int) -> None:
    first = seed % 10_000 * 1000
    found = {try_checkpoint(kind, at, tmp_path) for at in range(first, first + 120)}
    assert "older" in found


@pytest.mark.parametrize("kind", KINDS)
def test_whole_ones_hold_the_state_to_the_bit(kind: str, tmp_path: Path) -> None:
    line, checkpoint = outcome(kind, sound(kind)[1], tmp_path)
    assert line == "resuming FIT at step 4" and checkpoint is not None
    assert same(checkpoint.state, json_and_tensors(state_of(kind, 4)))
    unpacked(kind, checkpoint.state)


def json_and_tensors(state: object) -> object:
    """As a checkpoint returns it: without subclasses of dict, and detached."""
    if isinstance(state, torch.Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: json_and_tensors(item) for key, item in state.items()}
    return type(state)(map(json_and_tensors, state)) if isinstance(state, list | tuple) else state


@pytest.mark.parametrize("at", [0, 7, 8, 9, 200, -300, -1])
def test_every_byte_counts(at: int, tmp_path: Path) -> None:
    """Also those of the checksum itself, and the padding of the header."""
    older, newer = sound("generate")
    damaged = bytearray(newer)
    damaged[at] ^= 1
    line, checkpoint = outcome("generate", bytes(damaged), tmp_path, older)
    assert checkpoint is not None and checkpoint.meta["step"] == 3
    assert line.startswith("damaged: 0002-fit.safetensors (it")
    assert line.endswith("; resuming FIT at step 3, from 0001-fit.safetensors")
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["0001-fit.safetensors"]


def test_without_a_whole_one_the_user_decides(tmp_path: Path) -> None:
    older, newer = sound("fit")
    line, _ = outcome("fit", newer[:-1], tmp_path, older[:-1])
    assert "no checkpoint in" in line and "0002-fit.safetensors" in line and "--overwrite" in line
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2, "nothing is deleted"


def with_header(data: bytes, change: object) -> bytes:
    """The file with another header and the checksum that this needs."""
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    inner = json.loads(outer["__metadata__"][HEADER])
    change(inner)  # type: ignore[operator]
    outer["__metadata__"][HEADER] = json.dumps(inner)
    header = json.dumps(outer, separators=(",", ":")).encode()
    return b"".join(sealed(len(header).to_bytes(8, "little") + header + data[8 + length :]))


def test_what_contradicts_the_run_is_damage_too(tmp_path: Path) -> None:
    """Where the checksum is right."""
    older, newer = sound("generate")
    changes = {
        "is beyond": lambda header: header["meta"].update(step=10),
        "meta.step is -1": lambda header: header["meta"].update(step=-1),
        "no phase": lambda header: header.update(name="seed"),
        "the entries": lambda header: header["meta"].pop("seconds"),
        "its header": lambda header: header.update(metrics_bytes=-1),
        "layout": lambda header: header.update(layout={"list": 3}),
        "another version": lambda header: header.update(format=checkpoints.FORMAT + 1),
    }
    for words, change in changes.items():
        line, checkpoint = outcome("generate", with_header(newer, change), tmp_path, older)
        assert checkpoint is not None and checkpoint.meta["step"] == 3 and words in line, line
    data = with_header(newer, lambda header: header["meta"]["inputs"].update(text="a man"))
    line, checkpoint = outcome("generate", data, tmp_path, older)
    assert checkpoint is None and "made with another text: repeat" in line


def test_the_format_before_checksums_is_told_from_damage(tmp_path: Path) -> None:
    tensors, layout = flatten_state({"x": torch.ones(3)})
    header = {"name": "seid", "meta": {"format": 2}, "layout": layout, "metrics_bytes": 0}
    line, _ = outcome("fit", save(tensors, {HEADER: json.dumps(header)}), tmp_path)
    assert "another version of specularip made it (checkpoint format 2, here 3)" in line
    assert "--overwrite" in line and "damaged" not in line
    line, _ = outcome("fit", save(tensors, {HEADER: "[" * 100_000}), tmp_path)
    assert "it has no checksum" in line


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "run")
    path = run.save_checkpoint("one", {'"checksum":"' + "0" * 32: torch.arange(3)}, {"checksum": "0" * 32})
    with safe_open(path, "pt") as file:
        assert len((file.metadata() or {})[CHECKSUM]) == 32
    assert torch.equal(*(2 * list(read_checkpoint(path).state.values())))


def test_a_folder_or_a_link_to_nothing_in_place_of_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "run")
    run.save_checkpoint("fit", {"x": torch.ones(1)})
    (run.path / "checkpoints" / "0002-fit.safetensors").mkdir()
    (run.path / "checkpoints" / "0003-fit.safetensors").symlink_to("nowhere")
    found = run.load_checkpoint()
    assert found is not None and found.path is not None and found.path.name == "0001-fit.safetensors"


def test_states_that_are_too_deep(tmp_path: Path) -> None:
    state: object = 1
    for _ in range(MAX_DEPTH + 1):
        state = [state]
    path = RunFolder.open(tmp_path / "run").save_checkpoint("fit", state)
    with pytest.raises(DamagedFile, match="layout"):
        read_checkpoint(path)


def test_the_schema() -> None:
    schema = {
        "means": TensorOf(("N", 3)),
        "near": TensorOf(("N", 2), torch.int64, low=0, below="N"),
        "more": [Maybe(Number(0, 1)), Text(("a", "b"))],
        "many": Many(Number(0, 3, whole=True)),
        "none": None,
        "generator": generator_state,
    }
    generator = torch.Generator().get_state()

    def good() -> dict[str, object]:
        return {
            "means": torch.ones(4, 3),
            "near": torch.tensor([[0, 3]] * 4),
            "more": [None, "a"],
            "many": [1, 2],
            "none": None,
            "generator": generator.clone(),
        }

    check_state(good(), schema)
    wrong: dict[str, list[object]] = {
        "means": [
            torch.ones(5, 3),
            torch.ones(4, 3).double(),
            torch.full((4, 3), torch.nan),
            torch.ones(4),
            3,
        ],
        "near": [torch.tensor([[0, 4]] * 4), torch.tensor([[0, -1]] * 4), torch.zeros(4, 2)],
        "more": [
            [None],
            (None, "a"),
            [2, "a"],
            [True, "a"],
            [float("nan"), "a"],
            [None, "c"],
            [10**4000, "a"],
        ],
        "many": [[1.0], [4], (1,), {"0": 1}, None],
        "none": [0],
        "generator": [generator[:-1], torch.zeros_like(generator), torch.full_like(generator, 255), None],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(DamagedFile, match=name if name != "means" else "means|near"):
                check_state({**good(), name: value}, schema)
    for state in ({}, None, [], {**good(), "extra": 1}):
        with pytest.raises(DamagedFile):
            check_state(state, schema)
    with pytest.raises(NotFinite, match="means has values that are not finite"):
        check_state({**good(), "means": torch.full((4, 3), torch.inf)}, schema)


def test_differences_are_named_from_the_top() -> None:
    before = {"text": "a", "settings": {"seid": {"steps": 1}}, "photo": "x"}
    now = {"text": "a", "settings": {"seid": {"steps": 2}}, "photo 1": "x", "seed": None}
    assert list(differences(before, now)) == ["settings.seid.steps", "photo 1", "photo"]
