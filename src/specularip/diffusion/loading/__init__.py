"""Loading a prior: locate files, read weights, build networks, attach the identity adapter."""
