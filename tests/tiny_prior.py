"""Small random priors in three shapes: pixels with pose channels, Stable-Diffusion-like latents, and latents
of five-channel images as the compact prior has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from specularip.cameras import FRAMINGS, Cameras, Views
from specularip.diffusion.adapter import attach_identity
from specularip.diffusion.autoencoder import PixelAutoencoder, VaeAutoencoder
from specularip.diffusion.conditioning import Condition, condition_views, face_weight
from specularip.diffusion.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from specularip.diffusion.denoiser import UNetDenoiser
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.vocabulary import Vocabulary

WORDS = """a an the in of with and , . - woman man person red green blue dress shirt satin cotton front side
back
overhead view full upper lower body legs head close up blurry noisy low quality""".split()


def face_encoder() -> CLIPVisionModelWithProjection:
    """CLIP's vision tower of one layer, for faces of 16x16 pixels; embeddings of 12 numbers."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=12,
        )
    )


def word_tokenizer(words: list[str], max_length: int = 32) -> PreTrainedTokenizerFast:
    """One token a word, in lower case, with start and end tokens."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocab = {word: i for i, word in enumerate(special + list(dict.fromkeys(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def bpe_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """CLIP's byte-pair tokenizer over a vocabulary of single bytes and a few merges."""
    # The printable alphabet that byte-level BPE maps bytes to (Radford et al., 2019).
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]
    merges = [("r", "e"), ("re", "d</w>"), ("a", "n"), ("m", "an</w>")]
    tokens = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges]
    tokens += ["an</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}))
    lines = ["#version: 0.2", *(" ".join(m) for m in merges), "a n</w>"]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(str(folder))


def _randomize(prior: Prior, seed: int) -> Prior:
    """Give layers that start at zero (ControlNet's) or equal (identity's) weights that can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in prior.named_parameters():
        if parameter.ndim > 1 and (not parameter.any() or "_ip." in name):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return prior.eval().requires_grad_(False)


def pixel_prior(
    seed: int = 0, *, size: int = 16, prediction_type: str = "v_prediction", identity: bool = True
) -> Prior:
    """RGBA pixels, three pose channels, word-level tokenizer, two identity tokens."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(WORDS)
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=7,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type,
        clip_sample=True, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    image_encoder = projection = None
    if identity:
        image_encoder = face_encoder()
        projection = attach_identity(unet, 2, 12)
    prior = Prior(
        UNetDenoiser(unet),
        PixelAutoencoder(4),
        text_encoder,
        tokenizer,
        scheduler,
        image_encoder=image_encoder,
        image_projection=projection,
        face_mean=(0.5, 0.5, 0.5),
        face_std=(0.5, 0.5, 0.5),
    )
    return _randomize(prior, seed)


def latent_prior(folder: Path, seed: int = 0, *, size: int = 8, identity: bool = True) -> Prior:
    """Stable-Diffusion-like: VAE, ControlNet, byte-pair tokenizer, epsilon. `folder` is scratch."""
    torch.manual_seed(seed)
    tokenizer = bpe_tokenizer(folder / "bpe")
    unet = UNet2DConditionModel(
        sample_size=size,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
    )
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=2 * size,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    image_encoder = projection = None
    if identity:
        image_encoder = face_encoder()
        projection = attach_identity(unet, 4, 12)
    prior = Prior(
        UNetDenoiser(unet, controlnet),
        VaeAutoencoder(vae),
        text_encoder,
        tokenizer,
        scheduler,
        image_encoder,
        projection,
    )
    return _randomize(prior, seed)


def piece_tokenizer(words: list[str], max_length: int = 32) -> PreTrainedTokenizerFast:
    """BERT's word-piece tokenizer over some words and single letters, so that it has tokens for any word."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [prefix + c for prefix in ("", "##") for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*special, *letters, *words]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def compact_prior(seed: int = 0, *, size: int = 8, identity: bool = True) -> Prior:
    """The compact prior's layout: latents [16,size,size] of RGB, alpha and depth, a body map of four channels
    folded 2x2 into 16 input channels, BERT with word pieces, a list of known words, v-prediction."""
    torch.manual_seed(seed)
    tokenizer = piece_tokenizer(WORDS)
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=32,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
    )
    text_encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
        ),
        add_pooling_layer=False,
    )
    autoencoder = ConvAutoencoder(ConvAutoencoderConfig(encoder_widths=(8, 16), decoder_widths=(8, 16)))
    with torch.no_grad():
        autoencoder.normalise(autoencoder.encoder(torch.rand(4, 5, 8 * size, 8 * size) * 2 - 1))
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    image_encoder = projection = None
    if identity:
        image_encoder = face_encoder()
        projection = attach_identity(unet, 2, 12)
    prior = Prior(
        UNetDenoiser(unet),
        autoencoder,
        text_encoder,
        tokenizer,
        scheduler,
        image_encoder,
        projection,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        Vocabulary(frozenset(word for word in WORDS if word.isalpha())),
    )
    return _randomize(prior, seed)


def with_surface(prior: Prior) -> Prior:
    """The prior of `compact_prior`; its images are opaque now, and about as far away as what the camera looks
    at, so that its views agree on a surface."""
    assert isinstance(prior.autoencoder, ConvAutoencoder)
    *_, last, _, seams = prior.autoencoder.decoder
    weight, bias = (parameter.data.view(5, -1, *parameter.shape[1:]) for parameter in last.parameters())
    weight[3:] *= 0.02
    bias[3], bias[4] = 1.0, 0.0
    torch.nn.init.zeros_(seams.conv2.weight)
    torch.nn.init.zeros_(seams.conv2.bias)
    return prior


def sd15_prior(folder: Path, seed: int = 0) -> Prior:
    """Stable Diffusion 1.5's layout, every width scaled down: four levels in UNet, ControlNet and VAE (8x8
    latents of 64x64 images), and a plain identity adapter. `folder` is scratch."""
    torch.manual_seed(seed)
    small = latent_prior(folder, seed, identity=False)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        cross_attention_dim=24,
        attention_head_dim=2,
    )
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=12,
        )
    )
    projection = attach_identity(unet, 4, 12)
    prior = Prior(
        UNetDenoiser(unet, controlnet),
        VaeAutoencoder(vae),
        small.text_encoder,
        small.tokenizer,
        small.scheduler,
        image_encoder,
        projection,
    )
    return _randomize(prior, seed)


def make_condition(prior: Prior, azimuths: Sequence[float], seed: int) -> Condition:
    """Of one random face, from these sides."""
    generator = torch.Generator().manual_seed(seed)
    size, azimuth = prior.image_size, torch.tensor(azimuths, dtype=torch.float32)
    views = Views(
        Cameras.orbit(azimuth, width=size, height=size),
        azimuth,
        torch.full_like(azimuth, 5.0),
        [FRAMINGS[i % 4] for i in range(len(azimuth))],
        torch.zeros(len(azimuth), 3),
    )
    pose = torch.rand(len(azimuth), prior.pose_channels, size, size, generator=generator)
    face = prior.encode_face(torch.rand(1, 3, 32, 32, generator=generator))
    book = PromptBook(prior)
    return condition_views(
        book, "a woman in a red dress", "blurry", views, pose, face, face_weight(azimuth, 0.8)
    )
