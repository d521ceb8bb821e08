"""One run from sentence and photo to a finished folder: the order of the stages, checkpoints, the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, raster, specular
from ..avatar import Avatar, Binding
from ..body import Body, anny_body, phenotype_from_text
from ..cameras import FULL, HEAD, Cameras, orbit_views
from ..config import Config, preset_config
from ..diffusion.prior import Prior, pick_dtype
from ..diffusion.prompts import PromptBook, view_prompt
from ..errors import UserError
from ..export.video import to_uint8, turntable, write_video
from ..inputs import Inputs, check_inputs
from ..losses import Perceptual
from ..photo import align_face, face_mask
from ..progress import Progress
from ..run_folder import Checkpoint, RunFolder
from ..stopping import StopRequest, polite_stop
from .guide import Guide, PhotoAnchor, photo_anchor
from .report import peak_memory_gib, plain, versions
from .scr import Targets, fit, make_targets, orbits
from .seid import seid
from .state import State, start

PREVIEW_SECONDS, CHECKPOINT_SECONDS = 8.0, 45.0
PHOTO_SIZE = 96
MAX_SKIPPED = 3


def generate(
    text: str,
    image: str | Path,
    *,
    preset: str = "compact",
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    photo_weight: float = 1.0,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Avatar:
    """Text and one face photo to a full-body avatar, written to the folder `out` and returned.

    config overrides the preset's settings; seed and photo_weight are then taken from the arguments all the
    same. Raises UserError for input that the user can mend (see `inputs.check_inputs`), KeyboardInterrupt
    after saving a checkpoint when stopped by Ctrl-C or SIGTERM.
    """
    inputs = check_inputs(text, image, out, resume, overwrite)
    if photo_weight < 0:
        raise UserError(f"--photo-weight is {photo_weight}: it must be 0 or more")
    config = replace(config or preset_config(preset), preset=preset, seed=seed, photo_weight=photo_weight)
    folder = RunFolder.open(out, resume, overwrite)
    with Progress() if progress is None else nullcontext(progress) as shown, polite_stop() as stop:
        return _Run(inputs, config, folder, shown, stop).go()


class _Run:
    """The state of one run: where it is, and how long things took."""

    def __init__(
        self, inputs: Inputs, config: Config, folder: RunFolder, progress: Progress, stop: StopRequest
    ) -> None:
        self.inputs, self.config, self.folder, self.progress, self.stop = (
            inputs,
            config,
            folder,
            progress,
            stop,
        )
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None  # the phase being timed, and since when
        self.notes: list[str] = list(inputs.notes)
        self.last_preview = self.last_checkpoint = time.monotonic()

    def go(self) -> Avatar:
        for note in self.inputs.notes:
            self.progress.say(note)
        with self._timed("load"):
            guide, photo = self._prepare()
            # May compile; the first step should not count it into its ETA.
            raster.warm_up()
            specular.warm_up()
        checkpoint = self._checkpoint()
        targets: Targets | None = None
        step = 0
        if checkpoint is None:
            state = start(guide.body, self.config.seid.points, self.config.seed, self.config.seid.lights)
            phase = "seid"
        else:
            phase, step = checkpoint.name, int(checkpoint.meta["step"])
            self.seconds |= checkpoint.meta["seconds"]
            state = State.unpack(checkpoint.state["state"])
            if phase == "fit":
                targets = Targets(**checkpoint.state["targets"])
            self.progress.say(f"resuming {phase.upper()} at step {step}")
        if phase == "seid":
            self.progress.start("SEID", self.config.seid.steps, step)
            with self._timed("seid"):
                seid(state, guide, photo, step, self._after("seid", state, guide, None))
            self._save("refine", 0, state, None)
            step = 0
        if targets is None:
            total = self.config.scr.refine_steps * len(orbits(self.config.scr.orbit_views))
            self.progress.start("SCR views", total)
            with self._timed("refine"):
                targets = make_targets(state, guide, self._after_refining)
            self._save("fit", 0, state, targets)
            step = 0
        perceptual = Perceptual.load(guide.prior)
        self.progress.start("SCR fit", self.config.scr.fit_steps, step)
        with self._timed("fit"):
            fit(state, guide, photo, targets, perceptual, step, self._after("fit", state, guide, targets))
        return self._finish(state, guide, perceptual.name)

    def _prepare(self) -> tuple[Guide, PhotoAnchor | None]:
        """Load the prior, read the words, cut out the face, make the body."""
        config = self.config
        prior = load_prior(config)
        suffix = view_prompt("", "head", "overhead")
        cut = prior.truncated(self.inputs.text, suffix)
        text = self.inputs.text[: len(self.inputs.text) - len(cut)].strip() if cut else self.inputs.text
        if cut:
            self._note(f"the text is longer than the prior reads; this part is left out: '{cut}'")
        unknown = [word for word in prior.unknown_words(text) if any(c.isalnum() for c in word)]
        if unknown:
            self._note(f"the prior does not know these words and ignores them: {', '.join(unknown)}")
        phenotype = phenotype_from_text(self.inputs.text)
        body = anny_body(phenotype)
        face = align_face(self.inputs.photo, self.inputs.face, PHOTO_SIZE)
        guide = Guide(prior, PromptBook(prior), text, prior.encode_face(face[None]), body, config)
        photo = None
        if config.photo_weight > 0:
            photo = photo_anchor(body, face, face_mask(PHOTO_SIZE), config.photo_weight)
        return guide, photo

    def _checkpoint(self) -> Checkpoint | None:
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is None:
            return None
        before, now = checkpoint.meta.get("inputs"), self._inputs_meta()
        different = [key for key in now if before is None or before.get(key) != now[key]]
        if different:
            raise UserError(
                f"the run in {self.folder.path} was made with another {' and '.join(different)}: "
                "repeat them to resume, or use --overwrite"
            )
        return checkpoint

    def _inputs_meta(self) -> dict[str, Any]:
        settings = asdict(self.config)
        return {
            "text": self.inputs.text,
            "seed": settings.pop("seed"),
            "photo weight": settings.pop("photo_weight"),
            "settings": plain(settings),
        }

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.say(text)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        self._running = name, began
        yield
        self._running = None
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def _save(self, name: str, step: int, state: State, targets: Targets | None) -> None:
        packed = {"state": state.pack()}
        if targets is not None:
            packed["targets"] = targets.pack()
        seconds = dict(self.seconds)
        if self._running is not None:
            phase, began = self._running
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - began
        self.folder.save_checkpoint(
            name, packed, {"step": step, "seconds": seconds, "inputs": self._inputs_meta()}
        )
        self.last_checkpoint = time.monotonic()

    def _after(
        self, name: str, state: State, guide: Guide, targets: Targets | None
    ) -> Callable[[int, dict[str, float]], None]:
        def after_step(done: int, log: dict[str, float]) -> None:
            self.progress.step(done, loss=log["loss"])
            self.folder.add_metrics({"stage": name, "step": done, **log})
            if state.skipped >= MAX_SKIPPED:
                raise UserError(
                    f"the loss was not finite {MAX_SKIPPED} times in a row at step {done} of {name}; the "
                    f"last checkpoint in {self.folder.path} is kept: try another --seed"
                )
            if self.stop.requested:
                self._save(name, done, state, targets)
                raise KeyboardInterrupt
            if state.skipped == 0 and time.monotonic() - self.last_checkpoint > CHECKPOINT_SECONDS:
                self._save(name, done, state, targets)
            if time.monotonic() - self.last_preview > PREVIEW_SECONDS:
                self.folder.write_png("preview.png", preview(self._avatar(state, guide), guide.body, 192))
                self.last_preview = time.monotonic()

        return after_step

    def _after_refining(self, done: int, total: int) -> None:
        """Refinement takes seconds and has a checkpoint just before it, from which it starts again."""
        self.progress.step(done)
        if self.stop.requested:
            raise KeyboardInterrupt

    def _avatar(self, state: State, guide: Guide) -> Avatar:
        body = guide.body
        binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints.detach().clone())
        provenance = {
            "text": self.inputs.text,
            "photo": self.inputs.image.name,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "specularip": __version__,
            "height": round(body.height, 4),
        }
        return Avatar(state.gaussians, state.head, provenance, binding)

    def _finish(self, state: State, guide: Guide, perceptual: str) -> Avatar:
        """Everything a run folder holds, the report last: a folder without one is unfinished."""
        config = self.config
        state.head.requires_grad_(False).eval()
        detached = state.gaussians.select(torch.arange(len(state.gaussians)))
        avatar = replace(self._avatar(state, guide), gaussians=detached)
        self.progress.say("writing the avatar and its turntable")
        with self._timed("write"):
            avatar.save(self.folder.path)
            avatar.save(self.folder.path / "avatar.ply")
            self.folder.write_png("preview.png", preview(avatar, guide.body, 384))
            write_video(
                turntable(avatar, config.turntable_frames, config.turntable_size),
                self.folder.path / "turntable.mp4",
            )
        self.folder.write_json(
            "report.json",
            {
                "text": self.inputs.text,
                "text_read": guide.text,
                "image": str(self.inputs.image),
                "notes": self.notes,
                "settings": config,
                "phenotype": phenotype_from_text(self.inputs.text),
                "perceptual_loss": perceptual,
                "perceptual_note": ""
                if perceptual.startswith("lpips")
                else "no LPIPS weights found: the perceptual loss compares features of the prior's own UNet",
                "gaussians": len(avatar.gaussians),
                "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
                "peak_memory_gib": round(peak_memory_gib(), 3),
                "dtype": str(guide.prior.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
                "versions": versions(),
            },
        )
        return avatar


def load_prior(config: Config) -> Prior:
    """The prior that the configuration names, frozen; "compact" is the one in the package."""
    path = (
        str(files("specularip") / "assets" / "compact")
        if config.prior.path == "compact"
        else config.prior.path
    )
    return Prior.load(path, dtype=pick_dtype(config.prior.dtype, "cpu"))


def preview(avatar: Avatar, body: Body, size: int) -> np.ndarray:
    """uint8 [size, 4 size, 3]: front, three-quarter, back and face."""
    whole = Cameras.orbit([0.0, 40.0, 180.0], 6.0, FULL.distance * body.height, FULL.fov_y_deg, size, size)
    close = orbit_views(1, HEAD, size=size, body_height=body.height, elevation_deg=4.0).cameras
    frames = [*avatar.render(whole).image, *avatar.render(close).image]
    return np.concatenate([to_uint8(frame) for frame in frames], 1)
