"""The parts of fitting Gaussians to posed images: where they start, what colours them, where they move."""
