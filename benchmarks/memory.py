"""The memory preflight's estimates beside the peaks of real trainings, each in a process of its own."""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.results import keep, tell
from services.trainer.activation_memory import Networks
from services.trainer.architectures import build_tiny, stable_diffusion_schedule, train_tokenizer
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.preflight import Estimate
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.model import Model
from shared.diffusion.optimisation import optimise

PROMPTS: Final = ["left pleural effusion"]
STEPS: Final = 3
MEBIBYTE: Final = 2**20
# Name, film size, and what the training is told.
CASES: Final[list[tuple[str, int, dict[str, Any]]]] = [
    ("tiny", 64, {"batch_size": 128}),
    ("tiny", 64, {"batch_size": 128, "precision": "bf16"}),
    ("tiny", 64, {"batch_size": 128, "gradient_checkpointing": True}),
    ("tiny", 64, {"batch_size": 128, "gradient_checkpointing": True, "precision": "bf16", "text_encoder": "frozen"}),
    ("larger", 256, {"batch_size": 2}),
    ("larger", 256, {"batch_size": 4, "text_encoder": "frozen"}),
    ("larger", 256, {"batch_size": 4, "text_encoder": "frozen", "precision": "bf16"}),
    ("larger", 256, {"batch_size": 4, "text_encoder": "frozen", "gradient_checkpointing": True}),
]


def main() -> None:
    """Run every case in a child, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=int, default=None, help="be the child that runs this one")
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measured(*CASES[options.case])))
        return
    figures = [run_case(number) for number in range(len(CASES))]
    path = keep("memory", seed=0, settings={"steps": STEPS}, figures=figures)
    rows = [
        [
            row["model"],
            row["asked"],
            *(f"{row[name] / MEBIBYTE:.0f}" for name in ("estimate", "peak")),
            f"{row['estimate'] / row['peak']:.2f}",
        ]
        for row in figures
    ]
    tell("Peak memory of a training beyond its process's start", ["model", "asked", "estimate MiB", "peak MiB", "ratio"], rows, path)


def run_case(number: int) -> dict[str, Any]:
    """One case in a process of its own: what an allocator has from earlier ones would hide its peak."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--case", str(number)], capture_output=True, text=True, check=True, timeout=900
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(name: str, image_size: int, wishes: dict[str, Any]) -> dict[str, Any]:
    """The estimate and the peak of resident memory, beyond what the process had with its libraries warm."""
    torch.set_num_threads(1)
    spec = TrainingSpec.model_validate({"name": name, "dataset": "ds_1", "base": "mdl_1", "steps": STEPS, **wishes})
    warm = spec.model_copy(update={"batch_size": 2})
    train(build_tiny(PROMPTS, 32), films(8, 32), warm)
    gc.collect()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # lets the peak begin anew (proc(5))
    model = build_tiny(PROMPTS, image_size) if name == "tiny" else larger_model(image_size)
    count = max(16, spec.batch_size)
    train(model, films(count, image_size), spec)
    needs = Estimate(Networks.of(model, image_size), count, 2, from_scratch=False, device="cpu").needs(spec).host
    return {
        "model": f"{name}, {sum(p.numel() for p in model.unet.parameters()) / 1e6:.1f} M, {image_size} px",
        "asked": ", ".join(f"{key} {value}" for key, value in wishes.items()),
        "estimate": sum(size for part, size in needs.items() if part != "checkpoints"),  # none are written here
        "peak": peak_bytes() - before,
    }


def train(model: Model, shown: TrainingSet, spec: TrainingSpec) -> None:
    """Some steps, as the trainer takes them."""
    recipe = Recipe.of(spec)
    optimise(recipe.modules(model), DenoisingLoss(model, shown, recipe), recipe.optimisation)


def films(count: int, size: int) -> TrainingSet:
    """Noise will do: memory does not depend on what is seen."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size)).astype(np.uint8)
    return TrainingSet(images, PROMPTS * count, np.ones(count, dtype=np.int64))


def larger_model(image_size: int) -> Model:
    """Stable Diffusion's shape at a sixth of its weights: four levels, 77 tokens, RGB autoencoder."""
    tokenizer = train_tokenizer(PROMPTS)
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=image_size // 8,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        cross_attention_dim=512,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=image_size,
    )
    return Model(CLIPTextModel(text), tokenizer, unet, vae, stable_diffusion_schedule(), key="larger", device=torch.device("cpu"))


def peak_bytes() -> int:
    """The most memory that was resident since the peak began anew."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
