"""Attention of the denoiser: text and identity in cross-attention, key views in self-attention.

Two processors replace diffusers' own in every transformer block of a UNet2DConditionModel:

- `IdentityCrossAttention` adds to the attention over the text tokens one over the identity tokens with its
  own keys and values (decoupled cross-attention; Ye et al., IP-Adapter, 2023, eq. 5), scaled per sample.
- `SharedSelfAttention` can attend to the keys and values of other views (mutual self-attention; Cao et al.,
  MasaCtrl, 2023), which makes neighbouring views agree in SCR.

Their inputs are passed in diffusers' `cross_attention_kwargs`: the UNet's code is untouched, and nothing is
stored between calls except in the caller's `KeyViews`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class KeyViews:
    """Keys and values of key views for one denoising step, and how a batch of views uses them.

    A batch is G guidance branches of B views, branch-major ([G*B, ...]). In a call:

    - `record` adds this batch's own keys and values to the store, after the views already there;
    - `joined` [B] int64 lets view b attend to itself and to stored view joined[b] in one softmax;
    - `neighbours` [B,m] int64 with `weights` [B,m] gives view b the sum of separate attentions:
      (1 - sum of its weights) of its own and weights[b,j] of stored view neighbours[b,j];
    - `together` lets all B views of a branch attend to each other, in every layer. For a prior that was
      trained so: its views then show one person. It excludes the others.

    `record` combines with `joined`: diagonal views attend to front or back and then serve as key views.
    """

    branches: int
    record: bool = False
    joined: Tensor | None = None
    neighbours: Tensor | None = None
    weights: Tensor | None = None
    together: bool = False
    store: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By layer: keys and values, each [G,K,T,C]."""

    def add(self, layer: str, key: Tensor, value: Tensor) -> None:
        """Append keys and values [G*B,T,C] of this batch to the store of `layer`."""
        key, value = (x.unflatten(0, (self.branches, -1)) for x in (key, value))
        if layer in self.store:
            old_key, old_value = self.store[layer]
            key, value = torch.cat([old_key, key], 1), torch.cat([old_value, value], 1)
        self.store[layer] = key, value

    def pick(self, layer: str, views: Tensor) -> tuple[Tensor, Tensor]:
        """Stored keys and values of `views` [B] for every branch, [G*B,T,C]."""
        key, value = self.store[layer]
        return key.index_select(1, views).flatten(0, 1), value.index_select(1, views).flatten(0, 1)


def for_branches(x: Tensor, count: int) -> Tensor:
    """x [V,...] repeated for `count` evaluations, branch-major: [count,...], row i is x[i mod V]."""
    return x if len(x) == count else x.repeat(-(-count // len(x)), *[1] * (x.ndim - 1))[:count]


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention of [B,T,C] queries over [B,S,C] keys and values, [B,T,C]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def _mask(attn: Any, attention_mask: Tensor | None, length: int, batch: int) -> Tensor | None:
    if attention_mask is None:
        return None
    mask = attn.prepare_attention_mask(attention_mask, length, batch)
    return mask.view(batch, attn.heads, -1, mask.shape[-1])


class IdentityCrossAttention(nn.Module):
    """Attention over the text tokens plus, with its own keys and values, over the identity tokens."""

    def __init__(self, hidden: int, context: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context, hidden, bias=False)
        self.to_v_ip = nn.Linear(context, hidden, bias=False)

    # diffusers inspects the signature of __call__ for the inputs that a processor takes.
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        identity: Tensor | None = None,
        identity_scale: Tensor | None = None,
        key_views: KeyViews | None = None,
    ) -> Tensor:
        """hidden_states [B,T,C], text [B,S,D], identity [B,n,D], identity_scale [B] -> [B,T,C]."""
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        mask = _mask(attn, attention_mask, text.shape[1], len(text))
        out = plain_attention(query, attn.to_k(text), attn.to_v(text), attn.heads, mask)
        if identity is not None and identity_scale is not None:
            face = plain_attention(query, self.to_k_ip(identity), self.to_v_ip(identity), attn.heads)
            out = out + identity_scale.to(face.dtype)[:, None, None] * face
        return attn.to_out[1](attn.to_out[0](out))


class TextCrossAttention:
    """Attention over the text tokens alone, for a UNet without an identity adapter."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        key_views: KeyViews | None = None,
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = _mask(attn, attention_mask, text.shape[1], len(text))
        out = plain_attention(attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text), attn.heads, mask)
        return attn.to_out[1](attn.to_out[0](out))


class SharedSelfAttention:
    """Self-attention, extended by stored key views where `key_views` is given.

    layer: key of this attention in the store; None: this layer never shares (see `shares_keys`).
    """

    def __init__(self, layer: str | None) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        identity: Tensor | None = None,
        identity_scale: Tensor | None = None,
        key_views: KeyViews | None = None,
    ) -> Tensor:
        """hidden_states [B,T,C] -> [B,T,C]; `identity` and `identity_scale` are ignored."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        if key_views is not None and key_views.together:
            joint = [x.unflatten(0, (key_views.branches, -1)).flatten(1, 2) for x in (query, key, value)]
            out = plain_attention(joint[0], joint[1], joint[2], attn.heads).reshape(query.shape)
        elif key_views is None or self.layer is None:
            mask = _mask(attn, attention_mask, hidden_states.shape[1], len(hidden_states))
            out = plain_attention(query, key, value, attn.heads, mask)
        else:
            out = attend_shared(query, key, value, attn.heads, self.layer, key_views)
        return attn.to_out[1](attn.to_out[0](out))


def attend_shared(
    query: Tensor, key: Tensor, value: Tensor, heads: int, layer: str, views: KeyViews
) -> Tensor:
    """Self-attention with shared key views, after the projections; query, key, value [B,T,C] -> [B,T,C]."""
    if views.joined is not None:
        other_key, other_value = views.pick(layer, views.joined)
        out = plain_attention(
            query, torch.cat([key, other_key], 1), torch.cat([value, other_value], 1), heads
        )
    else:
        out = plain_attention(query, key, value, heads)
    if views.neighbours is not None:
        if views.weights is None:
            raise ValueError("KeyViews.neighbours needs weights of the same shape [B,m]")
        weights = views.weights.to(out.dtype).repeat(views.branches, 1)
        out = out * (1 - weights.sum(1))[:, None, None]
        for j in range(views.neighbours.shape[1]):
            other = plain_attention(query, *views.pick(layer, views.neighbours[:, j]), heads)
            out = torch.addcmul(out, weights[:, j, None, None], other)
    if views.record:
        views.add(layer, key, value)
    return out


def shares_keys(name: str) -> bool:
    """Whether an attention, by its name in diffusers, shares keys and values in mutual self-attention.

    Those are `attn1` of every up block but the first: the coarsest features determine the layout, and sharing
    them would copy one view into another; the finer ones carry colour and texture.
    """
    block = re.match(r"up_blocks\.(\d+)\..*\.attn1\.processor$", name)
    return block is not None and int(block[1]) >= 1


def install_attention(unet: nn.Module, *, identity: bool) -> None:
    """Put this module's processors into a UNet2DConditionModel, in place.

    With `identity`, `to_k_ip` and `to_v_ip` are initialised as copies of the text's `to_k` and `to_v`, as in
    IP-Adapter. In diffusers' config, a UNet's `attention_head_dim` is its *number of heads* unless
    `num_attention_heads` is given: `attention_head_dim=8` with 256 channels means 8 heads of 32. Raises
    ValueError for attentions that are neither `attn1` nor `attn2`.
    """
    processors: dict[str, Any] = {}
    for name in unet.attn_processors:  # type: ignore[union-attr]
        attn: Any = unet.get_submodule(name.removesuffix(".processor"))
        if name.endswith(".attn1.processor"):
            processors[name] = SharedSelfAttention(name if shares_keys(name) else None)
        elif name.endswith(".attn2.processor"):
            processors[name] = TextCrossAttention()
            if identity:
                with torch.device("meta"):  # random initial weights would take long, and are not used
                    adapter = IdentityCrossAttention(attn.to_k.out_features, attn.to_k.in_features)
                copies = {f"to_{x}_ip.weight": getattr(attn, f"to_{x}").weight.detach().clone() for x in "kv"}
                adapter.load_state_dict(copies, assign=True)
                processors[name] = adapter
        else:
            raise ValueError(f"unet has an attention of an unknown kind: {name}")
    unet.set_attn_processor(processors)  # type: ignore[operator]


def identity_layers(unet: nn.Module) -> dict[str, IdentityCrossAttention]:
    """The identity attentions of a UNet by their published name `ip_adapter.N`; {} without an adapter.

    N counts all of `unet.attn_processors` in order (down, up, mid), including self-attentions, which have no
    weights: in SD 1.5, N = 1, 3, 5, ... 31.
    """
    processors = unet.attn_processors.values()  # type: ignore[operator]
    return {f"ip_adapter.{i}": p for i, p in enumerate(processors) if isinstance(p, IdentityCrossAttention)}
