"""Guests: QEMU by libvirt, and the way into them."""
