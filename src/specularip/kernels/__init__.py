"""What all our kernels are built on."""
