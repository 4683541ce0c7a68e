"""What brings models and data to this machine: the packaged Llama, and the hub."""
