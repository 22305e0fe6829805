"""Full-catalogue evaluation on plain tensors and callables: ranks, metrics, baselines and tables."""
