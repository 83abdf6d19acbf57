"""The mathematics of the paper: schedule, predictions, losses, targets, samplers. Imports torch alone."""
