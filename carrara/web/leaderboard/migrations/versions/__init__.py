"""The migrations, one file each; a new one names the last as its `down_revision`."""
