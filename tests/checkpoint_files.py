"""Checkpoints of `generate` and `fit`, damaged, and what a resumed run makes of them.

`try_checkpoint(kind, seed, folder)` tries one; `python tests/checkpoint_files.py 10000 [FIRST_SEED]` as many
of each kind.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import mutate

from specularip.body import anny_body
from specularip.checkpoints import HEADER, Checkpoint, read_checkpoint, sealed
from specularip.errors import DamagedFile, UserError
from specularip.fitting import fit as fit_module
from specularip.fitting.fit import Fitting
from specularip.fitting.settings import FitConfig
from specularip.gaussians import PARAMETERS
from specularip.placement import Placement
from specularip.progress import Progress
from specularip.registration.fit_body import FittedBody
from specularip.run_folder import RunFolder
from specularip.stages.initial_state import initial_state, new_head
from specularip.stages.phases import avatar_state, targets
from specularip.stages.scr import Targets, orbits
from specularip.stages.settings import Config, ScrConfig, SeidConfig
from specularip.stopping import StopRequest
from specularip.training.session import Phase, Session
from specularip.training.state import TrainState
from specularip.training.step import take_step

KINDS = ("generate", "fit")
CPU = torch.device("cpu")
POINTS, VIEWS = 40, 5
CONFIG = Config(seid=SeidConfig(points=POINTS), scr=ScrConfig(orbit_views=8, close_ups=False, fit_steps=9))
FIT = FitConfig(iterations=9, points=POINTS, lights=4, body=True)
INPUTS = {"text": "a woman", "seed": 3}


def _stepped(state: TrainState[Any]) -> TrainState[Any]:
    take_step(state, sum((tensor.square().sum() for tensor in state.params.values()), torch.zeros(())))
    return state


@cache
def phases(kind: str) -> Mapping[str, Phase]:
    if kind == "fit":
        return fit_module._phases(FIT, VIEWS, fit_module.new_appearance(FIT, 0))
    state = avatar_state(CONFIG, len(anny_body().joint_names))
    return {"fit": Phase(9, {"state": state, "targets": targets(CONFIG, 5)})}


def state_of(kind: str, seed: int) -> Any:
    """What a run of this kind packs after a step."""
    torch.manual_seed(seed)
    body = anny_body()
    if kind == "generate":
        state = _stepped(initial_state(body, CONFIG.seid, seed))
        views = sum(count for _, count in orbits(CONFIG.scr))
        images, weights = torch.rand(views, 4, 6, 6), torch.rand(views, 1, 6, 6)
        made = Targets(torch.rand(views, 4, 4), torch.rand(views, 3, 3), images, 12, 12, weights)
        return {"state": state.pack(), "targets": made.pack()}
    own = initial_state(body, CONFIG.seid, seed)
    appearance = fit_module.new_appearance(FIT, seed)
    params = {name: own.params[name].detach().clone() for name in PARAMETERS}
    ties = {"initial_normals": torch.rand(POINTS, 3)}
    rates = {**fit_module.RATES, **appearance.rates}
    state = _stepped(TrainState.create(params, ties, appearance.shared, rates, torch.Generator()))
    near = torch.randint(POINTS, (POINTS, 8))
    fitted = FittedBody(
        body, torch.rand(len(body.joints), 4), Placement.identity(), 0.9, None, 0, ("a note",)
    )
    gains = torch.rand(VIEWS, 3)
    return Fitting(state, appearance, near, 0.1, "mesh", gains, [3, 1], step=4, body=fitted).pack()


def unpacked(kind: str, state: Any) -> None:
    """As the run that goes on does it; raises what that would."""
    if kind == "fit":
        Fitting.unpack(state, fit_module.new_appearance(FIT, 0), CPU)
    else:
        TrainState.unpack(state["state"], new_head(CONFIG.seid, 0))
        Targets.unpack(state["targets"])


def session_in(folder: Path) -> Session:
    return Session(RunFolder(folder), Progress(io.StringIO()), StopRequest(), CPU, INPUTS)


@cache
def sound(kind: str) -> tuple[bytes, bytes]:
    """The files of two checkpoints of one run, the older one first."""
    with tempfile.TemporaryDirectory() as name, session_in(Path(name)) as session:
        session._phases = phases(kind)
        for step in (3, 4):
            session.save("fit", step, state_of(kind, step))
        session._writer.join()
        older, newer = sorted((Path(name) / "checkpoints").iterdir())
        return older.read_bytes(), newer.read_bytes()


def damaged(data: bytes, seed: int) -> tuple[bytes, bool]:
    """A file with damage of some kind, and whether its checksum was made anew: then it may be another, valid
    state."""
    generator = np.random.default_rng(seed)
    if generator.random() < 0.5:
        changed = mutate(data, seed)
    else:
        changed = _edited(data, generator)
    if generator.random() < 0.4:
        try:
            return b"".join(sealed(changed)), True
        except DamagedFile:
            pass  # no room for a checksum is left
    return changed, False


DEEP = "[" * 100_000
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, [], {}, [[]],
    {"tensor": "state.params.means"}, {"value": 0}, {"dict": []}, {"dict": [[0, {"value": 1}]]}, {"list": [0]}
)  # fmt: skip


def _edited(data: bytes, generator: np.random.Generator) -> bytes:
    """Another header: entries of it, or of the JSON in its metadata, dropped, renamed, doubled or replaced by
    values of other types and sizes."""
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    inner = json.loads(outer["__metadata__"][HEADER])
    for _ in range(int(generator.integers(1, 4))):
        _edit_somewhere(outer if generator.random() < 0.4 else inner, generator)
    if isinstance(outer.get("__metadata__"), dict) and isinstance(outer["__metadata__"].get(HEADER), str):
        text = json.dumps(inner)
        if generator.random() < 0.1:
            text = str(
                generator.choice([DEEP, '{"format":' * 5000, "9" * 5000, text[:-3], f'{{"meta":{DEEP}'])
            )
        outer["__metadata__"][HEADER] = text
    header = json.dumps(outer, separators=(",", ":")).encode()
    if generator.random() < 0.05:
        header = DEEP.encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _edit_somewhere(value: Any, generator: np.random.Generator) -> None:
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[int(generator.integers(len(keys)))]
        if isinstance(value[key], dict | list) and len(value[key]) and generator.random() < 0.8:
            value = value[key]
            continue
        kind = int(generator.integers(4))
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[f"{key}x"] = value.pop(key)
        elif kind == 1:
            value.append(value[key])
        elif kind == 2 and type(value[key]) is int:
            value[key] += int(generator.choice([-1, 1, 2**31]))
        else:
            value[key] = VALUES[int(generator.integers(len(VALUES)))]
        return


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the bit, types and order too."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@cache
def _states(kind: str) -> list[Any]:
    with tempfile.TemporaryDirectory() as name:
        found = []
        for data in sound(kind):
            (Path(name) / "one").write_bytes(data)
            found.append(read_checkpoint(Path(name) / "one").state)
        return found


def outcome(
    kind: str, data: bytes, folder: Path, older: bytes | None = None
) -> tuple[str, Checkpoint | None]:
    """What a run makes of a newest checkpoint `data` beside an older whole one: the line that it logs, or the
    message of a UserError; and the checkpoint that it goes on from. All else is raised."""
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    if older is not None:
        (checkpoints / "0001-fit.safetensors").write_bytes(older)
    (checkpoints / "0002-fit.safetensors").write_bytes(data)
    with session_in(folder) as session:
        try:
            checkpoint = session.resume(phases(kind))
        except UserError as error:
            assert "\n" not in str(error)
            return str(error), None
        assert checkpoint is not None
        unpacked(kind, checkpoint.state)
        said = session.progress.stream.getvalue()  # type: ignore[attr-defined]
        assert said.count("\n") == 1 and len(said) < 600, said
        return said.strip(), checkpoint


def try_checkpoint(kind: str, seed: int, folder: Path) -> str:
    """Damage a checkpoint of this kind and resume from it in `folder`. Returns "used", "older" or "refused".

    Raises AssertionError if the run would go on from altered content, and what a traceback would show.
    """
    older, newer = sound(kind)
    data, resealed = damaged(newer, seed)
    line, checkpoint = outcome(kind, data, folder, older)
    if checkpoint is None:
        # It contradicts itself in what the user gave, which has to be a checksum that is right.
        assert resealed, f"{kind}, seed {seed}: {line}"
        return "refused"
    assert checkpoint.path is not None
    if checkpoint.path.name.startswith("0001"):
        assert "damaged: 0002-fit.safetensors (" in line and "at step 3, from 0001-fit" in line, line
        assert same(checkpoint.state, _states(kind)[0]) and checkpoint.meta["step"] == 3
        return "older"
    assert resealed or data == newer or same(checkpoint.state, _states(kind)[1]), f"{kind}, seed {seed}"
    return "used"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found: Counter[str] = Counter()
            for seed in range(first, first + count):
                try:
                    found[try_checkpoint(kind, seed, Path(folder))] += 1
                except Exception as error:
                    raise AssertionError(f"{kind}, seed {seed}: {error!r}") from error
        print(f"checkpoint of {kind}: {count} files, {dict(found)}", flush=True)


if __name__ == "__main__":
    main()
