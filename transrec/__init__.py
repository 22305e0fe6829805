"""TransRec: distributed training of transferable, modality-based recommenders."""

__version__ = "0.1.0"
