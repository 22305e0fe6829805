"""The commands as scripts: `deepspeed launch/train.py`, `python launch/evaluate.py`."""
