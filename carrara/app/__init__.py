"""What a person meets: the verbs."""
