"""Offline work: files in, files out, in the background and behind everybody who waits for an answer."""
