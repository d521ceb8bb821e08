"""The compact prior's networks with fresh weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from minilm import load_minilm
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from specularip.diffusion.adapter import attach_identity
from specularip.diffusion.conv_autoencoder import ConvAutoencoder
from specularip.diffusion.denoiser import UNetDenoiser
from specularip.diffusion.prior import Prior

FACE_SIZE, FACE_WIDTH, FACE_TOKENS = 64, 128, 4
TRAINED_TEXT_LAYERS = 2
"""Layers of the text encoder that are trained, from the top. The others keep what they know of English."""


def make_unet() -> UNet2DConditionModel:
    """Input: 16 latents and the body map of twice their side, folded into 16 channels."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=32,
        out_channels=16,
        layers_per_block=(2, 1, 1),
        block_out_channels=(128, 256, 320),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=384,
        attention_head_dim=(2, 4, 5),
    )


def make_prior(text_encoder: Path, device: torch.device | str) -> Prior:
    """text_encoder: a folder with MiniLM's weights and tokenizer (see `minilm`)."""
    unet = make_unet()
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=FACE_WIDTH,
            intermediate_size=3 * FACE_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=FACE_SIZE,
            patch_size=8,
            hidden_act="gelu",
            projection_dim=FACE_WIDTH,
        )
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    projection = attach_identity(unet, FACE_TOKENS, FACE_WIDTH)
    text, tokenizer = load_minilm(text_encoder)
    prior = Prior(
        UNetDenoiser(unet),
        ConvAutoencoder(),
        text,
        tokenizer,
        scheduler,
        image_encoder=vision,
        image_projection=projection,
        face_mean=(0.5,) * 3,
        face_std=(0.5,) * 3,
    )
    prior.text_encoder.requires_grad_(False)
    prior.text_encoder.encoder.layer[-TRAINED_TEXT_LAYERS:].requires_grad_(True)
    return prior.to(device)
