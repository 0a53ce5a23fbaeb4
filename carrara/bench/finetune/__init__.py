"""Fine-tuning: an encoder and a probe trained together on a task's own sound, whole or by low-rank adapters."""
