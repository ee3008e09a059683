"""What a memorization score is, and how sure we are of it: signals, similarity, statistics."""
