"""The detector: prompts or images in, risk out."""
