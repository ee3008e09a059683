"""The four services; each stands alone and reaches the others over HTTP only."""
