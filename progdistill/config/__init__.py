"""What a user can set: options, settings, presets, the ladder, the cluster, a deployment."""
