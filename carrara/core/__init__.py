"""The words every room shares: names, records, settings, homes, errors. No torch."""
