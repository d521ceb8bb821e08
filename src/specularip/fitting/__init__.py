"""`fit`: Gaussians optimised on posed images. Initial points and shading, appearance model, training loop."""
