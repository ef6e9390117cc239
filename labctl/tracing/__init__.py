"""Follow packets: which observations are of the same packet, and what became of it."""
