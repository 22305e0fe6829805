"""Processes of a run: who they are, how they talk, and who watches over them."""
