"""UNet and ControlNet of Stable Diffusion without gradients, all branches of guidance in one pass.

What the branches share is computed once: they differ only in text and identity tokens, which first enter in
the first transformer's cross-attention. Up to there the batch is the V views, from there on all evaluations,
branch-major: evaluation i is of view i mod V, and the last branch may leave out the last views. Keys and
values of all cross-attentions are one matrix product, and so are all time embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specularip.diffusion.attention import (
    IdentityCrossAttention,
    KeyViews,
    attend_shared,
    plain_attention,
)
from specularip.diffusion.denoiser import DenoiserInputs
from specularip.diffusion.fast.features import Features, Part
from specularip.diffusion.fast.layers import (
    EntryConvolution,
    Upsampling,
    concatenated,
    convolve,
    group_norm,
    linear,
    pack,
    resnet,
)
from specularip.diffusion.fast.ops import (
    add_layer_norm,
    bias_silu,
    cross_attention,
    geglu,
    join,
    normalize,
)


@dataclass(frozen=True)
class Context:
    """Inputs of every block besides the features: time shifts, keys and values.

    shifts: by resnet block, its projected time embedding plus first bias, [V,D] float32. text, identity: by
    transformer block, keys and values [E,T,2C] of E evaluations. identity_scale [E] float32.
    """

    shifts: dict[int, Tensor]
    text: dict[int, Tensor]
    identity: dict[int, Tensor]
    identity_scale: Tensor | None
    key_views: KeyViews | None


def supported(network: Any) -> bool:
    """Whether a UNet2DConditionModel or ControlNetModel has Stable Diffusion 1's architecture."""
    config = network.config
    kinds = {*config.down_block_types, *getattr(config, "up_block_types", ())}
    known = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
    plain = (
        config.act_fn == "silu"
        and config.resnet_time_scale_shift == "default"
        and config.class_embed_type is None
        and config.addition_embed_type is None
        and config.encoder_hid_dim is None
        and config.norm_num_groups is not None
        and not config.only_cross_attention
        and config.mid_block_type == "UNetMidBlock2DCrossAttn"
        and not getattr(config, "center_input_sample", False)
        and not getattr(config, "global_pool_conditions", False)
        and getattr(config, "conv_in_kernel", 3) == 3
        and getattr(config, "conv_out_kernel", 3) == 3
    )
    attentions = [m for m in network.modules() if type(m).__name__ == "Transformer2DModel"]
    return plain and kinds <= known and all(len(a.transformer_blocks) == 1 for a in attentions)


class Transformer:
    """A diffusers Transformer2DModel of one block: self-attention, cross-attention, feed-forward."""

    def __init__(self, module: Any) -> None:
        self.module, self.block = module, module.transformer_blocks[0]
        attn = self.block.attn1
        self.qkv = concatenated([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight])
        # The feed-forward's last bias is folded into that of the projection after it.
        self.exit = module.proj_out.weight.data.flatten(1)
        carried = self.exit.float() @ self.block.ff.net[2].bias.data.float()
        self.exit_bias = (module.proj_out.bias.data.float() + carried).to(self.exit.dtype)

    def _self_attention(self, x: Tensor, key_views: KeyViews | None) -> Tensor:
        attn = self.block.attn1
        query, key, value = F.linear(x, self.qkv).chunk(3, -1)
        layer = getattr(attn.processor, "layer", None)
        if key_views is not None and layer is not None:
            out = attend_shared(query, key, value, attn.heads, layer, key_views)
        else:
            out = plain_attention(query, key, value, attn.heads)
        return linear(out, attn.to_out[0])

    def __call__(self, x: Features, context: Context) -> Features:
        block = self.block
        tokens = linear(normalize(x.x, group_norm(self.module.norm, x), silu=False), self.module.proj_in)
        tokens = tokens.flatten(1, 2)
        tokens, normed = self._add_norm(tokens, None, block.norm1)
        tokens, normed = self._add_norm(tokens, self._self_attention(normed, context.key_views), block.norm2)
        key, value = context.text[id(block)].chunk(2, -1)
        identity = context.identity.get(id(block))
        face_key, face_value = (None, None) if identity is None else identity.chunk(2, -1)
        query = F.linear(normed, block.attn2.to_q.weight)
        attended = cross_attention(
            query, key, value, block.attn2.heads, face_key, face_value, context.identity_scale
        )
        tokens, normed = self._add_norm(tokens, linear(attended, block.attn2.to_out[0]), block.norm3)
        inner, outer = block.ff.net[0].proj, block.ff.net[2]
        hidden = geglu(normed, inner.weight, inner.bias).flatten(0, 1)
        tokens = tokens.flatten(0, 1).addmm_(hidden, outer.weight.T).view_as(tokens)
        out = F.linear(tokens, self.exit, self.exit_bias)
        return join([Part(out.unflatten(1, x.x.shape[1:3]), x.x)])

    @staticmethod
    def _add_norm(x: Tensor, delta: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return add_layer_norm(x, delta, norm.weight, norm.bias, norm.eps)


class Trunk:
    """The part common to UNet and ControlNet: time embedding, text, down blocks and middle."""

    def __init__(self, network: Any) -> None:
        pack(network)
        self.network = network
        self.entry = EntryConvolution(network.conv_in)
        modules = list(network.modules())
        self.resnets = [m for m in modules if getattr(m, "time_emb_proj", None) is not None]
        self.time_weight = concatenated([m.time_emb_proj.weight for m in self.resnets])
        biases = [m.time_emb_proj.bias.data.float() + m.conv1.bias.data.float() for m in self.resnets]
        self.time_bias = torch.cat(biases)
        transformers = [m for m in modules if type(m).__name__ == "Transformer2DModel"]
        self.transformers = {id(m): Transformer(m) for m in transformers}
        self.blocks = [m.transformer_blocks[0] for m in transformers]
        self.text_weight = concatenated(
            [w for b in self.blocks for w in (b.attn2.to_k.weight, b.attn2.to_v.weight)]
        )
        adapters = [b.attn2.processor for b in self.blocks]
        self.identity_weight = None
        if all(isinstance(p, IdentityCrossAttention) for p in adapters):
            self.identity_weight = concatenated(
                [w for p in adapters for w in (p.to_k_ip.weight, p.to_v_ip.weight)]
            )

    def context(self, inputs: DenoiserInputs) -> Context:
        dtype = self.time_weight.dtype
        wave = self.network.time_proj(inputs.timesteps).to(dtype)
        time = F.silu(self.network.time_embedding(wave))
        shifts = F.linear(time, self.time_weight).float() + self.time_bias
        widths = [m.time_emb_proj.out_features for m in self.resnets]
        spans = [2 * b.attn2.to_k.out_features for b in self.blocks]
        text = F.linear(inputs.text.to(dtype), self.text_weight).split(spans, -1)
        identity: tuple[Tensor, ...] = ()
        scale = None
        if inputs.identity is not None and self.identity_weight is not None:
            identity = F.linear(inputs.identity.to(dtype), self.identity_weight).split(spans, -1)
            scale = inputs.identity_scale
            scale = inputs.identity.new_ones(len(inputs.identity)) if scale is None else scale
            scale = scale.float()
        return Context(
            {id(m): s.contiguous() for m, s in zip(self.resnets, shifts.split(widths, 1))},
            {id(b): t for b, t in zip(self.blocks, text)},
            {id(b): i for b, i in zip(self.blocks, identity)},
            scale,
            inputs.key_views,
        )

    def layer(self, block: Any, index: int, x: Features, context: Context) -> Features:
        """Resnet `index` of a block, and the transformer after it, if any."""
        part = block.resnets[index]
        x = resnet(part, x, context.shifts[id(part)])
        attentions = getattr(block, "attentions", None)
        return x if attentions is None else self.transformers[id(attentions[index])](x, context)

    def down(self, x: Features, context: Context) -> tuple[Features, list[Tensor]]:
        """Down blocks and middle: the middle's features, and the skip connections for the up blocks."""
        skips = [x.x]
        for block in self.network.down_blocks:
            for index in range(len(block.resnets)):
                x = self.layer(block, index, x, context)
                skips.append(x.x)
            if block.downsamplers is not None:
                conv = block.downsamplers[0].conv
                x = join([Part(convolve(x.x, conv.weight, stride=2, padding=1), None, conv.bias)])
                skips.append(x.x)
        middle = self.network.mid_block
        first, second = middle.resnets
        x = resnet(first, x, context.shifts[id(first)])
        x = self.transformers[id(middle.attentions[0])](x, context)
        return resnet(second, x, context.shifts[id(second)]), skips


class ControlNet(Trunk):
    """Pose images to the residuals of the UNet's skip connections and middle."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        embedding = network.controlnet_cond_embedding
        self.pose_entry = EntryConvolution(embedding.conv_in)
        self.pose_biases = [bias_silu(conv.bias.data) for conv in embedding.blocks]

    def embed(self, pose: Tensor) -> Tensor:
        """Pose images [V,3,8h,8w] in 0..1 -> their embedding without the last bias, [V,h,w,C]."""
        embedding = self.network.controlnet_cond_embedding
        if self.network.config.controlnet_conditioning_channel_order == "bgr":
            pose = pose.flip(1)
        x = F.silu(self.pose_entry(pose))
        for conv, bias in zip(embedding.blocks, self.pose_biases):
            x = normalize(convolve(x, conv.weight, stride=conv.stride[0], padding=1), bias)
        return convolve(x, embedding.conv_out.weight)

    def __call__(self, inputs: DenoiserInputs, pose: Tensor) -> tuple[Features, list[Tensor]]:
        """Residuals of middle and skips, conditioned on text and pose [V,h,w,C], the result of `embed`."""
        context = self.context(DenoiserInputs(inputs.noisy, inputs.timesteps, inputs.text))
        bias = self.network.controlnet_cond_embedding.conv_out.bias
        x, skips = self.down(join([Part(self.entry(inputs.noisy), pose, bias)]), context)
        residuals = [linear(s, conv) for s, conv in zip(skips, self.network.controlnet_down_blocks)]
        return Features(linear(x.x, self.network.controlnet_mid_block)), residuals


class UNet(Trunk):
    """The denoiser."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.up = [
            None if block.upsamplers is None else Upsampling(block.upsamplers[0].conv)
            for block in network.up_blocks
        ]
        last = network.conv_out
        weight = F.pad(last.weight.data, (0, 0, 0, 0, 0, 0, 0, -last.out_channels % 8))
        self.exit, self.bias = weight.contiguous(memory_format=torch.channels_last), last.bias.data.float()

    def __call__(
        self, inputs: DenoiserInputs, controlnet: ControlNet | None = None, pose: Tensor | None = None
    ) -> Tensor:
        """The prediction [E,c,h,w] float32. pose [V,h,w,C]: the result of `ControlNet.embed`, which stands in
        for `inputs.pose`; None: the ControlNet is not run."""
        context = self.context(inputs)
        x, skips = self.down(Features(self.entry(inputs.noisy)), context)
        value, other = x.x, None
        residuals: list[Tensor] = []
        if controlnet is not None and pose is not None:
            middle, residuals = controlnet(inputs, pose)
            other = middle.x  # the first join adds it to the middle
        for block, up in zip(self.network.up_blocks, self.up):
            for index in range(len(block.resnets)):
                skip = Part(skips.pop(), residuals.pop() if residuals else None)
                x = self.layer(block, index, join([Part(value, other), skip]), context)
                value, other = x.x, None
            if up is not None:
                value = up(value)
                x = Features(value)
        norm = group_norm(self.network.conv_norm_out, x)
        out = convolve(normalize(x.x, norm), self.exit)[..., : len(self.bias)].float() + self.bias
        return out.permute(0, 3, 1, 2).contiguous()
