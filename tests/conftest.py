"""Before torch loads: threads that wait sleep soon, as under the command line (see specularip.cli)."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
