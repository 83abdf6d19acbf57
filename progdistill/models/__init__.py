"""The denoising network, the denoiser around it, and their exchange with other programs."""
