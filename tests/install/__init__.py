"""Installs labctl in minimal Debian root file systems, in each way, and runs router-hop there."""
