"""What DoRA needs beside LoRA: the norms that magnitudes are divided by."""
