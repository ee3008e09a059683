"""The networks that Lethe trains from scratch, all of them classes of diffusers and transformers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shared.diffusion.model import Model

BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
TINY_TOKENS: Final = 64  # window of the tiny text encoder; Stable Diffusion reads 77
TINY_WIDTH: Final = 64
CLIP_WORDS: Final = Regex(
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)  # CLIP's own split: letters, single digits, the rest


def build_tiny(prompts: Iterable[str], image_size: int) -> Model:
    """The `tiny` latent text-to-image model with random weights: about 2.6 M parameters, latents at a quarter of the image size."""
    tokenizer = train_tokenizer(prompts)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TINY_WIDTH,
            intermediate_size=4 * TINY_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TINY_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=image_size // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TINY_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=image_size,
    )
    return Model(text_encoder, tokenizer, unet, vae, stable_diffusion_schedule(), key="untrained", device=torch.device("cpu"))


def stable_diffusion_schedule() -> dict[str, Any]:
    """The noise schedule of Stable Diffusion 1.x, leading spacing with offset 1."""
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}  # its notes on itself hide changed values


def train_tokenizer(prompts: Iterable[str], vocabulary: int = 1024) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-pair encoding, lower case, end-of-word marks) learnt from the training prompts."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, unk_token=END))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(CLIP_WORDS, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + WORD_END for letter in alphabet]  # every byte must end a word, as in CLIP's own vocabulary
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        special_tokens=endings,  # named first: else their ids, and ties between merges, follow the order of a hash table
        show_progress=False,
    )
    learner.train_from_iterator(prompts, trainer)
    with tempfile.TemporaryDirectory() as scratch:
        learner.model.save(scratch)
        vocabulary_ids: dict[str, int] = json.loads((Path(scratch) / "vocab.json").read_text())
        for symbol in (BEGIN, END):
            vocabulary_ids.setdefault(symbol, len(vocabulary_ids))
        (Path(scratch) / "vocab.json").write_text(json.dumps(vocabulary_ids))
        return CLIPTokenizer.from_pretrained(scratch, local_files_only=True, model_max_length=TINY_TOKENS)
