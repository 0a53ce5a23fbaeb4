"""The two ways of asking MagnaTagATune."""
