"""Where everything durable lives: a folder or a bucket, addressed by keys. Knows nothing of checkpoints."""
