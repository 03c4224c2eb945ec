"""Floor 3: batched LoRA: reference, dispatcher, tile tables, shrink and expand kernels, linears with adapters."""
