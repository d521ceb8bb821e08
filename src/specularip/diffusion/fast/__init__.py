"""The denoiser and autoencoder of Stable Diffusion 1, faster on a GPU."""
