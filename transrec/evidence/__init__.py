"""What is known of a candidate from the history alone, without a user encoder."""
