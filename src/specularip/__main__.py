"""`python -m specularip` is the `specularip` command."""

from specularip.cli import main

main()
