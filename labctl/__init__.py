"""labctl: reproducible virtual labs that show where a packet's checksum knowledge was lost."""

__version__ = "0.1.0"
