"""What a store holds, by meaning: checkpoints, aliases, runs, evaluations and their lineage."""
