"""Examples that a run learns from and is tested on."""
