"""Copies of KV blocks behind the device: in host memory and on disk, written behind and read ahead of a start."""
