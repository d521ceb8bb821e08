"""Reading a prior: where its parts are, files of weights, networks, adapters."""
