"""What is wrong with a flow, where, and what mends it."""
