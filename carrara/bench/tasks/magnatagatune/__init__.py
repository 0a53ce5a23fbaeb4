"""The two tasks on MagnaTagATune."""
