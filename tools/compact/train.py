"""Train the compact prior: people are generated, dressed and rendered on the fly, in the training loop.

    python tools/compact/train.py --out RUN --seconds 1000 [--stop-after 500] [--resume]

Needs a CUDA GPU and gsplat. `--seconds` is the length of the whole schedule; `--stop-after` ends this
process earlier and leaves a checkpoint in RUN, from which `--resume` continues. The finished folder RUN/prior
(EMA weights, fp16) is what ships in src/specularip/assets/compact.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parent))
from data import SIZE, Examples, Photographer, disturb_faces
from wardrobe import (
    BOTTOM_NAMES,
    COLOR_NAMES,
    HAIR_COLOR_NAMES,
    HAIR_STYLES,
    MATERIAL_NAMES,
    TOP_NAMES,
    vocabulary,
)

from specularip.diffusion.adapter import attach_identity
from specularip.diffusion.autoencoder import PixelAutoencoder
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.denoiser import UNetDenoiser
from specularip.diffusion.loading.folder import load_prior, save_prior
from specularip.diffusion.prior import Prior
from specularip.diffusion.sample import sample

TEXT, TOKENS, FACE_TOKENS = 256, 48, 4
PROBES = {
    "top": len(TOP_NAMES),
    "top_color": len(COLOR_NAMES),
    "top_material": len(MATERIAL_NAMES),
    "bottom": len(BOTTOM_NAMES),
    "bottom_color": len(COLOR_NAMES),
    "hair_color": len(HAIR_COLOR_NAMES),
    "hair_style": len(HAIR_STYLES),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; words that training did not contain become <unk>, so that they can be reported to
    the user."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    words = {word: i for i, word in enumerate([*special, *vocabulary()])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=TOKENS,
    )


def make_prior(device: torch.device) -> Prior:
    """The compact networks with fresh weights."""
    tokenizer = make_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=7,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 160, 192),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="gelu",
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
            projection_dim=TEXT,
        )
    )
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=8,
            hidden_act="gelu",
            projection_dim=128,
        )
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    projection = attach_identity(unet, FACE_TOKENS, 128)
    prior = Prior(
        UNetDenoiser(unet),
        PixelAutoencoder(4),
        text,
        tokenizer,
        scheduler,
        image_encoder=vision,
        image_projection=projection,
        face_mean=(0.5,) * 3,
        face_std=(0.5,) * 3,
    )
    return prior.to(device)


class Pool:
    """Buffer of the latest examples, on the GPU as uint8; training samples from it at random."""

    def __init__(self, capacity: int, per_person: int, device: torch.device) -> None:
        self.images = torch.zeros(capacity, 4, SIZE, SIZE, dtype=torch.uint8, device=device)
        self.poses = torch.zeros(capacity, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
        self.faces = torch.zeros(capacity // per_person, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
        self.tokens = torch.zeros(capacity, TOKENS, dtype=torch.long, device=device)
        self.labels = torch.zeros(capacity // per_person, len(PROBES), dtype=torch.long, device=device)
        self.per_person, self.capacity, self.at, self.filled = per_person, capacity, 0, 0

    def add(self, examples: Examples, tokens: Tensor) -> None:
        count = len(examples.images)
        rows = (torch.arange(count, device=self.images.device) + self.at) % self.capacity
        self.images[rows] = (examples.images * 255).round().byte()
        self.poses[rows] = (examples.poses * 255).round().byte()
        self.tokens[rows] = tokens.to(self.tokens)
        people = rows[:: self.per_person] // self.per_person
        self.faces[people] = (examples.faces * 255).round().byte()
        self.labels[people] = torch.tensor(
            [[getattr(p, name) for name in PROBES] for p in examples.people], device=people.device
        )
        self.at = (self.at + count) % self.capacity
        self.filled = min(self.capacity, self.filled + count)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows = torch.randint(self.filled, (count,), device=self.images.device)
        people = rows // self.per_person
        scale = lambda x: x.float() / 255  # noqa: E731
        return (
            scale(self.images[rows]),
            scale(self.poses[rows]),
            scale(self.faces[people]),
            self.tokens[rows],
            self.labels[people],
        )


def save_sheet(path: Path, images: Tensor, columns: int) -> None:
    grid = images[:, :3].float().cpu().clamp(0, 1)
    rows = len(grid) // columns
    grid = (
        grid[: rows * columns]
        .reshape(rows, columns, 3, SIZE, SIZE)
        .permute(0, 3, 1, 4, 2)
        .reshape(rows * SIZE, columns * SIZE, 3)
    )
    Image.fromarray((grid.numpy() * 255).astype(np.uint8)).resize((columns * SIZE * 2, rows * SIZE * 2)).save(
        path
    )


def networks(prior: Prior) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in prior.named_parameters() if p.requires_grad]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1000)
    parser.add_argument("--stop-after", type=float, default=math.inf)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--init", type=Path, help="a finished prior folder to start from, with a fresh optimiser"
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(args.seed + int(args.resume))
    if args.init:
        prior = load_prior(args.init, device=device, dtype=torch.float32).requires_grad_(True)
    else:
        prior = make_prior(device)
    named = networks(prior)
    weights = [p for _, p in named]
    probe = nn.Linear(TEXT, sum(PROBES.values())).to(device)
    sizes = {
        k: sum(p.numel() for n, p in named if n.startswith(k)) / 1e6
        for k in ("denoiser", "text_encoder", "image_encoder", "image_projection")
    }
    print("parameters, millions:", {k: round(v, 2) for k, v in sizes.items()}, flush=True)
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": list(probe.parameters())}],
        lr=args.rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=True,
    )
    ema = [p.detach().clone() for p in weights]
    step, spent = 0, 0.0
    state_path = args.out / "state.pt"
    if args.resume:
        state = torch.load(state_path, map_location=device, weights_only=True)
        prior.load_state_dict(state["prior"])
        probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step, spent = state["ema"], state["step"], state["spent"]
    photographer = Photographer(device, seed=args.seed + 1000 * step)
    views, people = 8, 16
    pool = Pool(65_536, views, device)

    def refill(rounds: int) -> None:
        for _ in range(rounds):
            examples = photographer.shoot(people, views)
            tokens = prior.tokenizer(
                examples.captions,
                padding="max_length",
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            ).input_ids
            pool.add(examples, tokens)

    began = time.perf_counter()
    refill(160 if args.seconds > 200 else 16)
    torch.cuda.synchronize()
    print(f"first {pool.filled} examples in {time.perf_counter() - began:.1f} s", flush=True)
    if not args.resume:
        save_sheet(args.out / "data.png", pool.images[:128] / 255, 16)
        save_sheet(args.out / "poses.png", pool.poses[:128] / 255, 16)
        save_sheet(args.out / "faces.png", pool.faces[:64] / 255, 16)
        save_sheet(args.out / "faces_disturbed.png", disturb_faces(pool.faces[:64] / 255), 16)
    empty = prior.tokenizer(
        "", padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    ).input_ids.to(device)
    alphas = prior.alphas_cumprod

    def loss_of(
        images: Tensor, poses: Tensor, embeds_in: Tensor, tokens: Tensor, labels: Tensor, drop: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = images * 2 - 1
        t = torch.randint(0, 1000, (len(x),), device=device)
        noise = torch.randn_like(x)
        alpha = alphas[t][:, None, None, None]
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
        with torch.autocast("cuda", torch.bfloat16):
            hidden = prior.text_encoder(tokens).last_hidden_state
            # Views from behind have a small identity scale, or none.
            scale = torch.where(
                torch.rand(len(x), device=device) < 0.12, 0.0, 0.5 + 0.5 * torch.rand(len(x), device=device)
            )
            face = prior.image_encoder((embeds_in - 0.5) / 0.5).image_embeds * (drop < 0.88)[:, None]
            identity = prior.image_projection(face)
            v = prior.denoiser.unet(
                torch.cat([noisy, poses], 1).to(memory_format=torch.channels_last),
                t,
                hidden,
                cross_attention_kwargs={"identity": identity, "identity_scale": scale},
                return_dict=False,
            )[0].float()
            end = (tokens == 3).int().argmax(1)
            logits = probe(hidden[torch.arange(len(x), device=device), end]).float()
        diffusion = F.mse_loss(v, target)
        # Mean over the examples whose text was not dropped, without a host synchronisation.
        told = (drop > 0.1).float()
        parts = logits.split(list(PROBES.values()), -1)
        classes = sum(
            (told * F.cross_entropy(part, labels[:, i], reduction="none")).sum() / told.sum().clamp_min(1)
            for i, part in enumerate(parts)
        )
        return diffusion, classes

    unet = prior.denoiser.unet
    unet.to(memory_format=torch.channels_last)
    forward = unet.forward
    unet.forward = torch.compile(forward, dynamic=False)
    smooth = torch.zeros((), device=device)
    started = time.perf_counter()
    prior.train()
    while True:
        now = time.perf_counter()
        elapsed = spent + now - started
        share = elapsed / args.seconds
        if share >= 1 or now - started > args.stop_after:
            break
        rate = (
            args.rate
            * min(1, (step + 1) / 300)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, share))))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        if step % 8 == 0:
            refill(1)
        images, poses, faces, tokens, labels = pool.draw(args.batch)
        drop = torch.rand(args.batch, device=device)  # < .1 no text, > .88 no face, a tenth of each also both
        tokens = torch.where((drop < 0.1)[:, None] | (drop > 0.98)[:, None], empty, tokens)
        diffusion, classes = loss_of(images, poses, disturb_faces(faces), tokens, labels, drop)
        (diffusion + 0.01 * classes).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(0.9995, (step + 1) / (step + 30))
        torch._foreach_mul_(ema, decay)
        torch._foreach_add_(ema, [p.detach() for p in weights], alpha=1 - decay)
        smooth = smooth * 0.98 + 0.02 * diffusion.detach()
        step += 1
        if step % 250 == 0 or step in (5, 50):
            torch.cuda.synchronize()
            now = time.perf_counter()
            print(
                f"step {step} at {spent + now - started:.0f} s, "
                f"loss {float(smooth):.4f}, probes {float(classes.detach()):.3f}",
                flush=True,
            )
    spent += time.perf_counter() - started
    unet.forward = forward
    state = {
        "prior": prior.state_dict(),
        "probe": probe.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema,
        "step": step,
        "spent": spent,
    }
    temporary = state_path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, state_path)
    for p, e in zip(weights, ema):
        p.data.copy_(e)
    prior.eval()
    save_prior(prior, args.out / "prior")
    # Provenance of these weights: one entry per run, earlier runs first.
    before = json.loads((args.init / "training.json").read_text()) if args.init else []
    entry = {
        "steps": step,
        "batch": args.batch,
        "rate": args.rate,
        "seconds": round(spent),
        "loss": round(float(smooth), 4),
    }
    entry["gpu"] = torch.cuda.get_device_name()
    (args.out / "prior" / "training.json").write_text(json.dumps([*before, entry], indent=1) + "\n")
    shutil.copy(Path(__file__).with_name("MODEL_CARD.md"), args.out / "prior")
    print(f"saved at step {step}, {spent:.0f} s", flush=True)
    preview(prior, photographer, args.out, random.Random(5))


@torch.no_grad()
def preview(prior: Prior, photographer: Photographer, out: Path, rng: random.Random) -> None:
    """Samples beside the examples with the same conditioning."""
    examples = photographer.shoot(12, 8)
    device = prior.device
    captions = examples.captions
    face = prior.encode_face(examples.faces[examples.person])
    empty = prior.encode_text([""]).expand(len(captions), -1, -1)
    condition = Condition(
        positive=prior.encode_text(captions),
        negative=empty,
        null=empty,
        pose=examples.poses,
        identity=prior.identity_tokens(face),
        null_identity=prior.identity_tokens(prior.null_face(len(face))),
        identity_scale=torch.ones(len(face), device=device),
    )
    x = sample(prior, condition, scale=3.0, steps=30, generator=torch.Generator().manual_seed(1), batch=96)
    rows = torch.cat([torch.cat([examples.images[i : i + 16], x[i : i + 16]]) for i in range(0, len(x), 16)])
    save_sheet(out / "samples.png", rows, 16)
    (out / "samples.txt").write_text("\n".join(captions) + "\n")


if __name__ == "__main__":
    main()
