"""The trainer: data sets in, models out."""
