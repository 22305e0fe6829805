"""Raw recommendation data to shards: `python -m data_tools build | inspect | verify`."""
