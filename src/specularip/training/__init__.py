"""Training of Gaussians, for `generate` and `fit`: state, step, Adam, density control, session."""
