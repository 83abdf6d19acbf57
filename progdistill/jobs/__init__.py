"""What a step hands to a launcher: job descriptions, the worker, and the launchers."""
