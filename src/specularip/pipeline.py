"""One run from sentence and photo to a finished folder: the order of the stages, checkpoints, the report."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from specularip import raster, specular
from specularip.avatar import Avatar
from specularip.body import Body, Phenotype, anny_body, phenotype_from_text, smplx_body
from specularip.diffusion.fast.accelerate import accelerate, supports
from specularip.diffusion.loading import folder as prior_folder
from specularip.diffusion.loading.sd15 import load_sd15
from specularip.diffusion.loading.weights import pick_dtype
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook, view_prompt
from specularip.errors import MissingWeights, UserError
from specularip.export.video import write_video
from specularip.faces.alignment import align_face, face_mask
from specularip.faces.cascade import find_face
from specularip.faces.insightface import InsightFace
from specularip.faces.photo import read_image
from specularip.gaussians import Binding
from specularip.inputs import Inputs, check_inputs
from specularip.kernels.async_transfer import StepMetrics
from specularip.lpips import NO_LPIPS, find_lpips
from specularip.presentation import preview, turntable
from specularip.presets import preset_config, with_low_memory
from specularip.progress import Progress
from specularip.run_folder import Checkpoint, RunFolder
from specularip.stages.guide import EncodedFace, Guide, PhotoAnchor, photo_anchor
from specularip.stages.perceptual import Perceptual, UnetFeatures, perceptual_loss
from specularip.stages.scr import Targets, fit, make_targets, orbits
from specularip.stages.seid import seid
from specularip.stages.settings import Config
from specularip.stopping import StopRequest, polite_stop
from specularip.training.machine import check_gpu, check_memory
from specularip.training.parallel import Team, join
from specularip.training.report import peak_gpu_gib, peak_memory_gib, plain, versions
from specularip.training.state import State, start
from specularip.version import __version__

PREVIEW_SECONDS, CHECKPOINT_SECONDS = 8.0, 45.0
PHOTO_SIZE = 96
MAX_SKIPPED = 3
ASK_EVERY = 8
"""Steps between two times that several processes ask each other whether to stop: they wait for the answer."""
MEMORY_SETTINGS = (
    ("", "low_memory"), ("seid", "views_at_once"), ("scr", "refine_batch"), ("scr", "vae_batch"),
)  # fmt: skip
"""What a resumed run may change: it does not change the result."""
UNET_FEATURES = f"the perceptual loss compares features of the prior's own UNet; {NO_LPIPS}"


def generate(
    text: str,
    image: str | Path,
    *,
    preset: str = "compact",
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    photo_weight: float | None = None,
    low_memory: bool = False,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Avatar:
    """Text and one face photo to a full-body avatar, written to the folder `out` and returned, on the CPU.

    config overrides the preset and its settings; seed is then taken from the arguments all the same, and so
    are photo_weight and low_memory if given. Under torchrun, the processes share each step's views; see
    `parallel`. Raises UserError for input that the user can mend (see `inputs.check_inputs`) and for a
    machine that cannot do it, KeyboardInterrupt after saving a checkpoint when stopped by Ctrl-C or SIGTERM.
    """
    config = replace(config or preset_config(preset), seed=seed)
    if photo_weight is not None:
        config = replace(config, photo_weight=photo_weight)
    if low_memory:
        config = with_low_memory(config)
    inputs = check_inputs(text, image, out, resume, overwrite, config.detects_face)
    if config.photo_weight < 0:
        raise UserError(f"--photo-weight is {config.photo_weight}: it must be 0 or more")
    check_gpu(config)
    team, device = join(config.device)
    check_memory(config, device)
    for views in (config.seid.views_per_step, config.scr.views_per_step):
        team.share(views)
    with ExitStack() as stack:
        if progress is None:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            progress = stack.enter_context(Progress(None if team.leads else nowhere))
        stop = stack.enter_context(polite_stop())
        began = time.perf_counter()
        with _memory_told("nothing of this run is lost: end other programs on the GPU, or add --low-memory"):
            cast = _prepare(inputs, config, device, progress)
        # What could still be wrong came to light before an old run is replaced.
        folder = RunFolder.open(out, resume, overwrite) if team.leads else RunFolder(Path(out))
        team.wait()
        run = _Run(inputs, cast, folder, progress, stop, team)
        run.seconds["load"] = time.perf_counter() - began
        kept = f"{out} keeps the last checkpoint: end other programs on the GPU, or continue with"
        with _memory_told(f"{kept} --resume --low-memory"):
            return run.go()


@contextmanager
def _memory_told(advice: str) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"the GPU's memory ran out; {advice}") from error


@dataclass
class _Cast:
    """All that a run loads or makes before its first step."""

    guide: Guide
    photo: PhotoAnchor | None
    perceptual: Perceptual | None
    phenotype: Phenotype
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> Config:
        return self.guide.config

    @property
    def device(self) -> torch.device:
        return self.guide.prior.device


def _prepare(inputs: Inputs, config: Config, device: torch.device, progress: Progress) -> _Cast:
    """Load the prior, read the words, cut out the face, make the body."""
    notes: list[str] = []

    def note(line: str) -> None:
        if line:
            notes.append(line)
            progress.log(line)

    for line in inputs.notes:
        note(line)
    perceptual: Perceptual | None = None
    if config.scr.perceptual == "lpips" and config.scr.perceptual_weight:
        perceptual = find_lpips(device)
        if perceptual is None:
            raise UserError(f"{NO_LPIPS}; --set scr.perceptual_weight=0 does without")
    # Before the networks, which take their time.
    faces = InsightFace.load(config.prior.faces, device) if config.prior.path == "sd15" else None
    # May compile; the first step should not count it into its ETA.
    raster.warm_up(device)
    specular.warm_up(device)
    prior = load_prior(config, device)
    suffix = view_prompt("", "head", "overhead")
    cut = prior.truncated(inputs.text, suffix)
    text = inputs.text[: len(inputs.text) - len(cut)].strip() if cut else inputs.text
    if cut:
        note(f"the text is longer than the prior reads; this part is left out: '{cut}'")
    unknown = [word for word in prior.unknown_words(text) if any(c.isalnum() for c in word)]
    if unknown:
        note(f"the prior does not know these words and ignores them: {', '.join(unknown)}")
    phenotype = phenotype_from_text(inputs.text)
    body = make_body(config, phenotype).to(device)
    face, other = read_faces(prior, faces, inputs, config, note)
    guide = Guide(prior, PromptBook(prior), text, face, body, config, other)
    for guidance in (config.guidance, config.scr.guidance or config.guidance):
        guide.identity(guidance)
    if device.type == "cuda":
        prior.image_encoder = None  # a fifth of all weights, and the face has been read
        torch.cuda.empty_cache()
    photo = None
    if config.photo_weight > 0:
        assert inputs.face is not None
        crop = align_face(inputs.photo, inputs.face, PHOTO_SIZE)
        photo = photo_anchor(body, crop, face_mask(PHOTO_SIZE), config.photo_weight)
    if perceptual is None and config.scr.perceptual_weight:
        perceptual = perceptual_loss(prior)
        top, bottom, left, right = config.scr.crop
        if isinstance(perceptual, UnetFeatures) and bottom - top != right - left:
            raise UserError("scr.crop must be square where LPIPS' weights are not: the prior reads squares")
    return _Cast(guide, photo, perceptual, phenotype, notes)


def read_faces(
    prior: Prior, faces: InsightFace | None, inputs: Inputs, config: Config, note: Callable[[str], None]
) -> tuple[EncodedFace, EncodedFace | None]:
    """The photo's face as the prior reads it, and that of `guidance.negative_face`, if there is one.

    faces: who recognises them; None: loaded if the prior wants embeddings.
    """
    photos = [(inputs.photo, str(inputs.image))]
    if config.guidance.negative_face:
        photos.append((read_image(config.guidance.negative_face), config.guidance.negative_face))
    found: list[EncodedFace] = []
    with torch.no_grad():
        if prior.wants_face_embedding:
            faces = faces or InsightFace.load(config.prior.faces, prior.device)
            for photo, name in photos:
                portrait = faces.portrait(photo, name)
                note(portrait.note)
                found.append(prior.encode_face(portrait.crop[None], portrait.embedding[None]))
        else:
            for index, (photo, name) in enumerate(photos):
                face = (inputs.face if index == 0 else None) or find_face(photo, name)
                found.append(prior.encode_face(align_face(photo, face, PHOTO_SIZE)[None]))
    return found[0], found[1] if len(found) > 1 else None


def make_body(config: Config, phenotype: Phenotype) -> Body:
    """Anny with this phenotype, or the mean SMPL-X body from the user's files."""
    return anny_body(phenotype) if config.body == "anny" else smplx_body(config.body)


class _Run:
    """The state of one run: where it is, and how long things took."""

    def __init__(
        self,
        inputs: Inputs,
        cast: _Cast,
        folder: RunFolder,
        progress: Progress,
        stop: StopRequest,
        team: Team,
    ) -> None:
        self.inputs, self.cast, self.folder, self.progress = inputs, cast, folder, progress
        self.stop, self.team = stop, team
        self.config, self.device = cast.config, cast.device
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None  # the phase being timed, and since when
        self._unread: tuple[str, int, StepMetrics] | None = None  # of the last step
        self._loss: float | None = None  # of the last step that was read
        self.last_preview = self.last_checkpoint = time.monotonic()

    def go(self) -> Avatar:
        guide, photo = self.cast.guide, self.cast.photo
        checkpoint = self._checkpoint()
        targets: Targets | None = None
        step = 0
        if checkpoint is None:
            seid_config = self.config.seid
            state = start(guide.body, seid_config.points, self.config.seed, seid_config.lights, self.device)
            phase = "seid"
        else:
            phase, step = checkpoint.name, int(checkpoint.meta["step"])
            self.seconds |= checkpoint.meta["seconds"]
            state = State.unpack(checkpoint.state["state"], self.device)
            if phase == "fit":
                targets = Targets.unpack(checkpoint.state["targets"], self.device)
            self.progress.log(f"resuming {phase.upper()} at step {step}")
        if phase == "seid":
            self.progress.start("SEID", self.config.seid.steps, step)
            with self._timed("seid"):
                seid(state, guide, photo, step, self._after("seid", state, guide, None), self.team)
            self._save("refine", 0, state, None)
            step = 0
            self._let_go()
        if targets is None:
            total = self.config.scr.refine_steps * len(orbits(self.config.scr))
            self.progress.start("SCR views", total)
            with self._timed("refine"):
                targets = make_targets(state, guide, self._after_refining)
                self.team.follow(targets.images)
            self._save("fit", 0, state, targets)
            step = 0
            self._let_go()
        self.progress.start("SCR fit", self.config.scr.fit_steps, step)
        with self._timed("fit"):
            after = self._after("fit", state, guide, targets)
            fit(state, guide, photo, targets, self.cast.perceptual, step, after, self.team)
        self._read()
        avatar = self._finish(state, guide)
        self.team.wait()
        return avatar

    def _let_go(self) -> None:
        """Between stages: memory that the last one recorded or cached, and the next one cannot use."""
        self.cast.guide.prior.release_graphs()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _checkpoint(self) -> Checkpoint | None:
        checkpoint = self.folder.load_checkpoint()
        self.team.wait()  # reading shortens metrics.jsonl to the checkpoint's
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
        for part, name in MEMORY_SETTINGS:
            (settings[part] if part else settings).pop(name)
        return {
            "text": self.inputs.text,
            "seed": settings.pop("seed"),
            "photo weight": settings.pop("photo_weight"),
            "settings": plain(settings),
        }

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        self._running = name, began
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._running = None
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def _read(self) -> None:
        """Note the numbers of the last step, and raise UserError if too many were not finite. It waits for
        that step: to be called once the next one has started, or where the state itself is looked at."""
        if self._unread is None:
            return
        (name, done, log), self._unread = self._unread, None
        numbers = dict(log)
        skipped = numbers.pop("skipped")
        self._loss = numbers["loss"]
        if self.team.leads:
            self.folder.add_metrics({"stage": name, "step": done, **numbers})
        if skipped >= MAX_SKIPPED:
            raise UserError(
                f"the loss was not finite {MAX_SKIPPED} times in a row at step {done} of {name}; the "
                f"last checkpoint in {self.folder.path} is kept: try another --seed"
            )

    def _save(self, name: str, step: int, state: State, targets: Targets | None) -> None:
        self._read()
        if not self.team.leads:
            return
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
    ) -> Callable[[int, StepMetrics], None]:
        self._loss = None

        def after_step(done: int, log: StepMetrics) -> None:
            self._read()
            self._unread = name, done, log
            self.progress.step(done, loss=self._loss)
            asked = self.team.size == 1 or done % ASK_EVERY == 0
            if asked and self.team.any(self.stop.requested, self.device):
                self._save(name, done, state, targets)
                raise KeyboardInterrupt
            if not self.team.leads:
                return
            if time.monotonic() - self.last_checkpoint > CHECKPOINT_SECONDS and not int(state.skipped):
                self._save(name, done, state, targets)
            if time.monotonic() - self.last_preview > PREVIEW_SECONDS:
                self.folder.write_png(
                    "preview.png", preview(self._avatar(state, guide), guide.body.height, 192)
                )
                self.last_preview = time.monotonic()

        return after_step

    def _after_refining(self, done: int, total: int) -> None:
        """Refinement takes seconds and has a checkpoint just before it, from which it starts again."""
        self.progress.step(done)
        if self.team.any(self.stop.requested, self.device):
            raise KeyboardInterrupt

    def _avatar(self, state: State, guide: Guide) -> Avatar:
        body = guide.body
        binding = Binding(
            list(body.joint_names), list(body.joint_parents), body.joints.detach().cpu().clone()
        )
        provenance = {
            "text": self.inputs.text,
            "photo": self.inputs.image.name,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "specularip": __version__,
            "height": round(body.height, 4),
        }
        return Avatar(state.gaussians, state.head, provenance, binding)

    def _finish(self, state: State, guide: Guide) -> Avatar:
        """Everything a run folder holds, the report last: a folder without one is unfinished."""
        config, perceptual = self.config, self.cast.perceptual
        state.head.requires_grad_(False).eval()
        detached = state.gaussians.select(torch.arange(len(state.gaussians), device=self.device))
        avatar = replace(self._avatar(state, guide), gaussians=detached)
        finished = replace(avatar, gaussians=detached.to("cpu"), head=copy.deepcopy(state.head).to("cpu"))
        if not self.team.leads:
            return finished
        self.progress.log("writing the avatar and its turntable")
        with self._timed("write"):
            avatar.save(self.folder.path)
            avatar.save(self.folder.path / "avatar.ply")
            self.folder.write_png("preview.png", preview(avatar, guide.body.height, 384))
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
                "notes": self.cast.notes,
                "settings": config,
                "phenotype": self.cast.phenotype,
                "perceptual_loss": perceptual.name if perceptual is not None else "none",
                "perceptual_note": UNET_FEATURES if isinstance(perceptual, UnetFeatures) else "",
                "gaussians": len(avatar.gaussians),
                "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
                "peak_memory_gib": round(peak_memory_gib(), 3),
                "device": str(self.device),
                "processes": self.team.size,
                "peak_gpu_gib": peak_gpu_gib(self.device),
                "dtype": str(guide.prior.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
                "versions": versions(),
            },
        )
        return finished


def load_prior(config: Config, device: torch.device | str = "cpu") -> Prior:
    """The prior that the configuration names, frozen, on `device`."""
    dtype = pick_dtype(config.prior.dtype, device)
    if config.prior.path == "sd15":
        try:
            prior = load_sd15(config.prior.sources, device=device, dtype=dtype)
        except MissingWeights as error:
            raise UserError(f"{error}: `specularip models fetch --preset sd15` downloads it") from error
    else:
        shipped = str(files("specularip") / "assets" / "compact")
        path = shipped if config.prior.path == "compact" else config.prior.path
        prior = prior_folder.load_prior(path, device=device, dtype=dtype)
    return (
        accelerate(prior) if config.prior.fast and prior.device.type == "cuda" and supports(prior) else prior
    )
