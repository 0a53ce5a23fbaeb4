"""What every package shares: registries, records, settings, paths, downloads, errors. No torch."""

__version__ = "0.1.0"
