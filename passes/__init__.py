"""The passes that turn a float module with quantizers into an integer program, one a file."""
