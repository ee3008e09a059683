"""Films: picture codecs, readers of data sets, prompts, splits, and the procedural radiographs."""
