"""The task on EmoMusic."""
