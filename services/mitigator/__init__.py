"""The mitigator: prompts in, safe images out, with evidence of what changed."""
