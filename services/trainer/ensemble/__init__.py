"""Several models that each learn from a part of the films and are averaged now and then (IET, Liu et al. 2024)."""
