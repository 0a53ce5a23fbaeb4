"""Tasks of HookTheory."""
