"""The diffusion prior: networks, conditioning, guidance, score distillation, multi-view refinement."""
