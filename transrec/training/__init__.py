"""The training loop and what it stands on; nothing here knows which model it trains."""
