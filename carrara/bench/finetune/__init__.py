"""Fine-tuning: an encoder and a probe trained together on a task's audio, all weights or low-rank adapters."""
