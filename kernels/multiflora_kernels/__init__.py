"""The operations of the model: each op's reference, CPU fast path and dispatcher."""
