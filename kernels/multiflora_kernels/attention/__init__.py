"""Floor 2: paged attention: reference, dispatcher, work plan, tiles, Triton kernels, cascade over shared prefixes."""
