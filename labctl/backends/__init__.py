"""What runs the guests of a lab, and whose machine it is."""
