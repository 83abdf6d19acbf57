"""The denoising network, its diffusers twin, and the denoiser that couples it to a schedule and prediction type."""
