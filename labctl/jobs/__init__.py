"""Many commands of labctl, each a process of its own, on this machine or others."""
