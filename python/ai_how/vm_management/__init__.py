"""The documented entry point for programs."""
