"""The version of labctl. Beside the facade, which no module of labctl may import."""

__version__ = "0.1.0"
