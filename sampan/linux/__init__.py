"""Kernel facilities: the only place with ctypes, system call numbers, ioctls and netlink packing."""
