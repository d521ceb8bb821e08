"""The version of the package, apart from its public names so that any module can report it."""

__version__ = "0.1.0"
