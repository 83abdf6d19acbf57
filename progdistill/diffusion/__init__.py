"""The mathematics: schedule, prediction types, losses, targets, samplers, noise. Imports torch alone."""
