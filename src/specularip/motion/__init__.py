"""Motion: clips, the transforms of joints, and Gaussians that follow them with all their appearance."""
