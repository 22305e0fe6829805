"""Turns raw recommendation data into shards: `python -m data_tools build | inspect | verify`."""
