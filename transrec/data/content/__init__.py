"""Content of the items, by index: tokens, pixels, and hidden states after frozen layers."""
