"""The sampler: prompts in, images out."""
