"""The commands as files: `deepspeed launch/train.py`, `python launch/evaluate.py`."""
