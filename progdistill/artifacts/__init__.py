"""What outlives a run: stores, checkpoints with their lineage, records, aliases, snapshots."""
