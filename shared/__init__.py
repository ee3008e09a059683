"""What the four services share: one layer per package, imports only downwards."""
