"""The mathematics of the paper: schedule, prediction types, losses, targets, samplers. Imports torch alone."""
