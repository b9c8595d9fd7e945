"""Runnable benches. Each figure stands beside its reference, measured in the same run on the same machine."""
