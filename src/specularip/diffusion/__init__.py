"""The diffusion prior: a folder of weights, score distillation from it, and multi-view refinement with it."""
