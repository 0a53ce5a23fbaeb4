"""The row of EmoMusic."""
