"""Loading a prior: finding its files, reading weights, building networks, attaching the identity adapter."""
