"""Content of the items, by index: tokens, pixels, and states behind frozen layers."""
