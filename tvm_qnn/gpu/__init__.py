"""GPUs: what CUDA needs to be set up, and how its kernels are checked without one."""
