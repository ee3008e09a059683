"""Which parameters to tune, found by trying (MemControl, Dutt et al., WACV 2025)."""
