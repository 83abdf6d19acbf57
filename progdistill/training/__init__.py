"""One training loop with two objectives: a base model (Algorithm 1) and distillation (Algorithm 2)."""
