"""GPU implementations of the denoiser and autoencoder protocols, for Stable Diffusion 1's networks."""
