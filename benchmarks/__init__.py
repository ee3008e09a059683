"""What the performance claims are measured with; run one by its module, on an idle machine."""
