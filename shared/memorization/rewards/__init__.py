"""What a training is judged by: named measures of memorization and of quality, each with a direction."""
